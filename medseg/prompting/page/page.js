// The page: NiiVue shows image and mask, the mouse makes prompts, the server answers with the mask.

import { DRAG_MODE, MULTIPLANAR_TYPE, Niivue, SHOW_RENDER, SLICE_TYPE } from "./niivue.js";
import { boxBetween, millimetres, tiles } from "./geometry.js";

const OBJECTS = 9; // that the page offers; a file of prompts may bring more
const LABEL_INTENT = 1002; // of NIfTI: values are names, not amounts, and are coloured one by one
const SHORTEST_DRAG = 3; // pixels; less is a click
const PROGRESS_AFTER_MS = 400;

const element = (id) => document.getElementById(id);
const viewer = element("viewer");
const nv = new Niivue({
  isRadiologicalConvention: true,
  isNearestInterpolation: true,
  multiplanarShowRender: SHOW_RENDER.NEVER,
  multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
  multiplanarPadPixels: 6,
  crosshairWidth: 0.25,
  crosshairWidthUnit: "percent",
  crosshairColor: [0.3, 0.64, 1, 0.7],
  crosshairGap: 4,
  fontSizeScaling: 0.4,
  fontColor: [1, 1, 1, 1],
  dragMode: DRAG_MODE.windowing,
  dragAndDropEnabled: false,
  backColor: [0, 0, 0, 1],
  show3Dcrosshair: false,
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
});
let state = null;
let opened = false;
let busy = false;
let drag = null;

// Talking to the server

async function ask(path, content) {
  const sent = content === undefined ? {} : { method: "POST", body: JSON.stringify(content) };
  let answer;
  try {
    answer = await fetch(path, { ...sent, cache: "no-store" });
  } catch {
    throw new Error("medseg does not answer: has it been stopped?");
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

// One request at a time; errors are shown, and how far a long one is.
async function working(what, job) {
  if (busy || state === null) return;
  busy = true;
  viewer.classList.add("busy");
  say(what);
  const began = performance.now();
  const watch = setInterval(async () => {
    if (performance.now() - began < PROGRESS_AFTER_MS) return;
    const { done, total, what: stage } = await ask("progress").catch(() => ({ what: "" }));
    if (busy && stage) say(`${stage}: ${Math.round((100 * done) / total)} %`);
  }, PROGRESS_AFTER_MS);
  try {
    const result = await job();
    say(`${result} (${((performance.now() - began) / 1000).toFixed(2)} s)`);
  } catch (error) {
    say(error.message, true);
  } finally {
    clearInterval(watch);
    busy = false;
    viewer.classList.remove("busy");
    showButtons();
  }
}

const add = (prompt) =>
  working("segmenting", async () => {
    await take(await ask("add", { prompts: [{ ...prompt, object: Number(element("object").value) }] }));
    return "segmented";
  });

const undo = () =>
  working("one step back", async () => {
    await take(await ask("undo", null));
    return "one step back";
  });

const save = () => working("saving", async () => `saved: ${(await ask("save", null)).saved}`);

// Showing what the server found

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function take(found) {
  const { start, stop, voxels } = found.mask;
  const part = await inflated(voxels);
  const { img } = nv.volumes[1];
  const [, rows, columns] = state.shape;
  const width = stop[2] - start[2];
  img.fill(0);
  let from = 0;
  for (let z = start[0]; z < stop[0]; z++) {
    for (let y = start[1]; y < stop[1]; y++) {
      img.set(part.subarray(from, from + width), (z * rows + y) * columns + start[2]);
      from += width;
    }
  }
  state = { ...state, ...found };
  nv.updateGLVolume();
  showLists();
  showMarks();
}

function hue(object) {
  return Math.round((object - 1) * 137.5) % 360;
}

function rgb(object) {
  const component = (n) => {
    const k = (n + hue(object) / 30) % 12;
    return Math.round(255 * (0.55 - 0.45 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [component(0), component(8), component(4)];
}

const css = (object) => `rgb(${rgb(object).join(" ")})`;

function labelColours() {
  const colours = Array.from({ length: 256 }, (_, object) => (object ? rgb(object) : [0, 0, 0]));
  return {
    R: colours.map((colour) => colour[0]),
    G: colours.map((colour) => colour[1]),
    B: colours.map((colour) => colour[2]),
    A: colours.map((_, object) => (object ? 255 : 0)),
    I: colours.map((_, object) => object),
    labels: colours.map((_, object) => (object ? `object ${object}` : "")),
  };
}

function described(prompt) {
  const sign = prompt.positive === false ? "not " : "";
  switch (prompt.kind) {
    case "box":
      return `${sign}box ${prompt.start.map((value, axis) => `${value}:${prompt.stop[axis]}`).join(", ")}`;
    case "point":
      return `${sign}point ${prompt.at.map((value) => Math.round(value)).join(", ")}`;
    default:
      return `${sign}${prompt.kind}`;
  }
}

function line(object, text) {
  const item = document.createElement("li");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = css(object);
  item.append(swatch, text);
  return item;
}

function showLists() {
  const volumes = Object.entries(state.volume_ml);
  element("objects").replaceChildren(...volumes.map(([object, ml]) => line(object, `${object}: ${ml.toFixed(3)} ml`)));
  element("steps").replaceChildren(
    ...state.steps.flatMap((step) => step.map((prompt) => line(prompt.object, described(prompt)))),
  );
  showButtons();
}

function showButtons() {
  element("undo").disabled = busy || state.steps.length === 0;
  element("save").disabled = busy || state.steps.length === 0;
}

// Boxes and points on the slices where they lie.
function showMarks() {
  const marks = element("marks");
  const scale = canvasScale();
  marks.replaceChildren();
  const draw = (kind, attributes) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) mark.setAttribute(name, value);
    marks.append(mark);
  };
  for (const tile of tiles(nv, state)) {
    for (const prompt of state.steps.flat()) {
      const across = tile.through;
      if (prompt.kind === "box" && tile.slice >= prompt.start[across] && tile.slice < prompt.stop[across]) {
        const [x0, y0] = tile.pixel(prompt.start.map((value) => value - 0.5)).map((value) => value / scale);
        const [x1, y1] = tile.pixel(prompt.stop.map((value) => value - 0.5)).map((value) => value / scale);
        const [x, y, width, height] = [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
        draw("rect", { x, y, width, height, stroke: css(prompt.object) });
      } else if (prompt.kind === "point" && Math.round(prompt.at[across]) === tile.slice) {
        const [cx, cy] = tile.pixel(prompt.at).map((value) => value / scale);
        const outside = prompt.positive === false;
        draw("circle", { cx, cy, r: 4, ...(outside ? { class: "outside" } : { fill: css(prompt.object) }) });
      }
    }
  }
}

function showWindow() {
  const { cal_min: low, cal_max: high } = nv.volumes[0];
  element("level").value = Number(((low + high) / 2).toPrecision(5));
  element("width").value = Number((high - low).toPrecision(5));
}

function setWindow(level, width) {
  if (!Number.isFinite(level) || !(width > 0)) return showWindow();
  nv.volumes[0].cal_min = level - width / 2;
  nv.volumes[0].cal_max = level + width / 2;
  nv.updateGLVolume();
  showWindow();
}

// The mouse

const canvasScale = () => element("canvas").width / element("canvas").getBoundingClientRect().width;
const tool = () => document.querySelector("input[name=tool]:checked").value;

function canvasPixel(event) {
  const frame = element("canvas").getBoundingClientRect();
  return [(event.clientX - frame.left) * canvasScale(), (event.clientY - frame.top) * canvasScale()];
}

function showBand(event) {
  const frame = element("canvas").getBoundingClientRect();
  const [x0, y0, x1, y1] = [drag.clientX, drag.clientY, event.clientX, event.clientY];
  Object.assign(element("band").style, {
    left: `${Math.min(x0, x1) - frame.left}px`,
    top: `${Math.min(y0, y1) - frame.top}px`,
    width: `${Math.abs(x1 - x0)}px`,
    height: `${Math.abs(y1 - y0)}px`,
  });
  element("band").hidden = false;
}

function lookAt(index) {
  nv.scene.crosshairPos = nv.mm2frac(millimetres(state, index), 0, true);
  nv.drawScene();
  showMarks();
}

// In the capturing phase: what makes a prompt does not move NiiVue's crosshair as well.
function pressed(event) {
  if (event.button !== 0 || tool() === "look" || state === null) return;
  event.stopPropagation();
  event.preventDefault();
  const [x, y] = canvasPixel(event);
  const tile = tiles(nv, state).find((one) => one.holds(x, y));
  if (tile === undefined || busy) return;
  const voxel = tile.voxel(x, y, state.shape);
  if (tool() === "box") {
    drag = { tile, voxel, clientX: event.clientX, clientY: event.clientY };
  } else {
    lookAt(voxel);
    add({ kind: "point", at: voxel, positive: tool() === "inside" && !event.shiftKey });
  }
}

function moved(event) {
  if (drag !== null) showBand(event);
}

function released(event) {
  if (drag === null || event.button !== 0) return;
  const { tile, voxel, clientX, clientY } = drag;
  drag = null;
  element("band").hidden = true;
  if (Math.hypot(event.clientX - clientX, event.clientY - clientY) < SHORTEST_DRAG) {
    lookAt(voxel);
    return;
  }
  const other = tile.voxel(...canvasPixel(event), state.shape);
  const depth = Math.max(1, Math.round(Number(element("depth").value)) || 1);
  const box = boxBetween(voxel, other, tile.through, depth, state.shape);
  lookAt(box.start.map((value, axis) => (axis === tile.through ? voxel[axis] : (value + box.stop[axis] - 1) / 2)));
  add({ kind: "box", ...box });
}

function choose(name) {
  document.querySelector(`input[name=tool][value=${name}]`).checked = true;
  showTool();
}

function showTool() {
  viewer.classList.toggle("draw", tool() !== "look");
}

function setOpacity(value) {
  nv.setOpacity(1, value);
}

function typed(event) {
  if (event.target.matches("input[type=number], select")) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") undo();
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (key in { b: 1, p: 1, n: 1, l: 1 }) choose({ b: "box", p: "inside", n: "outside", l: "look" }[key]);
  else if (key === "u") undo();
  else if (key === "s") save();
  else if (key === "m") setOpacity(nv.volumes[1].opacity > 0 ? 0 : Number(element("opacity").value));
  else if (/^[1-9]$/.test(key)) element("object").value = key;
  else return;
  event.preventDefault();
}

// Beginning

function fill(select, names) {
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
}

async function showChannel(channel) {
  await nv.loadVolumes([
    { url: `image-${channel}.nii`, name: "image.nii" },
    { url: "mask.nii", name: "mask.nii", cal_min: 0, cal_max: 255, opacity: Number(element("opacity").value) },
  ]);
  nv.volumes[1].hdr.intent_code = LABEL_INTENT;
  nv.volumes[1].setColormapLabel(labelColours());
  nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
  nv.updateGLVolume();
  showWindow();
  element("preset").hidden = nv.volumes[0].global_min > -500; // air, as CT has it
}

function listen() {
  viewer.addEventListener("mousedown", pressed, true);
  window.addEventListener("mousemove", moved);
  window.addEventListener("mouseup", released);
  window.addEventListener("keydown", typed);
  window.addEventListener("resize", () => requestAnimationFrame(showMarks));
  nv.onLocationChange = () => requestAnimationFrame(showMarks);
  nv.onIntensityChange = showWindow;
  element("tools").addEventListener("change", showTool);
  element("undo").addEventListener("click", undo);
  element("save").addEventListener("click", save);
  element("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
  for (const id of ["level", "width"]) {
    element(id).addEventListener("change", () =>
      setWindow(Number(element("level").value), Number(element("width").value)),
    );
  }
  element("preset").addEventListener("change", (event) => {
    if (event.target.value) setWindow(...event.target.value.split(",").map(Number));
  });
  element("channel").addEventListener("change", (event) =>
    working("opening the channel", async () => {
      await showChannel(event.target.value);
      showMarks();
      return "opened";
    }),
  );
}

async function begin() {
  const found = await ask("state");
  document.title = `${found.name} - medseg`;
  element("name").textContent = found.name;
  const spacing = found.spacing_mm.map((value) => Number(value.toPrecision(4)));
  element("grid").textContent = `${found.shape.join(" x ")} voxels of ${spacing.join(" x ")} mm (z, y, x), ${found.engine}`;
  fill(element("object"), Array.from({ length: OBJECTS }, (_, i) => [i + 1, i + 1]));
  fill(element("channel"), Array.from({ length: found.channels }, (_, i) => [i, `channel ${i}`]));
  element("channel").hidden = found.channels === 1;
  await nv.attachToCanvas(element("canvas"));
  await showChannel(0);
  state = found;
  await take(found);
  lookAt(found.shape.map((size) => Math.floor(size / 2))); // a slice, not the border of two
  listen();
  showTool();
  opened = true;
  say("Draw a box around an object, or click into it.");
}

// For whoever drives the page from outside, as its test does.
window.medseg = {
  ready: () => opened,
  busy: () => busy,
  voxels: (object) => nv.volumes[1].img.reduce((count, value) => count + (value === object ? 1 : 0), 0),
  tiles: () => tiles(nv, state),
  steps: () => state.steps,
};

begin().catch((error) => say(error.message, true));
