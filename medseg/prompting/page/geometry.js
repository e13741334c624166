// Where voxels lie on the screen. Indices are (z, y, x) as in the array; millimetres come from the server's own grid.

const FLAT_VIEWS = 3; // NiiVue's axial, coronal and sagittal are 0, 1 and 2
const INSIDE = 0.01; // pixels

function times(rows, [a, b, c]) {
  return rows.map((row) => row[0] * a + row[1] * b + row[2] * c + row[3]);
}

// One plane on the screen: how index changes with pixels (of the canvas, not of the page).
class Tile {
  constructor(nv, number, toIndex) {
    let [left, top, width, height] = nv.screenSlices[number].leftTopWidthHeight;
    if (width < 0) [left, width] = [left + width, -width]; // left and right exchanged
    Object.assign(this, { left, top, width, height });
    const at = (x, y) => {
      const fraction = nv.screenXY2TextureFrac(x, y, number, true);
      return times(toIndex, nv.frac2mm(fraction, 0, true));
    };
    const [right, bottom] = [left + width - INSIDE, top + height - INSIDE];
    this.first = at(left + INSIDE, top + INSIDE);
    const across = at(right, top + INSIDE);
    const down = at(left + INSIDE, bottom);
    this.perX = this.first.map((value, axis) => (across[axis] - value) / (width - 2 * INSIDE));
    this.perY = this.first.map((value, axis) => (down[axis] - value) / (height - 2 * INSIDE));
    this.axisX = steepest(this.perX);
    this.axisY = steepest(this.perY);
    this.through = 3 - this.axisX - this.axisY;
  }

  holds(x, y) {
    return x >= this.left && x <= this.left + this.width && y >= this.top && y <= this.top + this.height;
  }

  // The voxel at a pixel, or the nearest one of this plane.
  voxel(x, y, shape) {
    const dx = Math.min(Math.max(x - this.left, INSIDE), this.width - INSIDE) - INSIDE;
    const dy = Math.min(Math.max(y - this.top, INSIDE), this.height - INSIDE) - INSIDE;
    return this.first.map((value, axis) => {
      const index = Math.round(value + dx * this.perX[axis] + dy * this.perY[axis]);
      return Math.min(Math.max(index, 0), shape[axis] - 1);
    });
  }

  // The pixel of an index, which need not be whole.
  pixel(index) {
    return [
      this.left + INSIDE + (index[this.axisX] - this.first[this.axisX]) / this.perX[this.axisX],
      this.top + INSIDE + (index[this.axisY] - this.first[this.axisY]) / this.perY[this.axisY],
    ];
  }

  get slice() {
    return Math.round(this.first[this.through]);
  }
}

function steepest(values) {
  const sizes = values.map(Math.abs);
  return sizes.indexOf(Math.max(...sizes));
}

export function tiles(nv, state) {
  const found = [];
  nv.screenSlices.forEach((slice, number) => {
    if (slice.axCorSag < FLAT_VIEWS) found.push(new Tile(nv, number, state.to_index));
  });
  return found;
}

// The box from one voxel to another, as many slices thick, within the image.
export function boxBetween(from, to, through, depth, shape) {
  const start = from.map((value, axis) => Math.min(value, to[axis]));
  const stop = from.map((value, axis) => Math.max(value, to[axis]) + 1);
  start[through] = Math.max(from[through] - Math.floor((depth - 1) / 2), 0);
  stop[through] = Math.min(from[through] + Math.ceil((depth - 1) / 2) + 1, shape[through]);
  return { start, stop };
}

export function millimetres(state, index) {
  return times(state.to_mm, index);
}
