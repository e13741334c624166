/* Labels of linearly resized logits in one pass over float32: row by row, in buffers that stay in the cache.

   Blends are two products and a sum, each rounded on its own, one axis after the other: the numbers are those of
   Linear.apply in axes.py to the last bit. Hence no fused multiply-add (and -ffp-contract=off for GCC). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

typedef struct {
    int moves; /* 0: new positions are the old ones, and there is nothing to blend */
    Py_ssize_t old, size;
    Py_buffer buffers[4];
    const int64_t *lower, *upper;
    const float *lower_weight, *upper_weight;
} Axis;

/* A plane of rows whose values lie side by side. */
typedef struct {
    const float *values;
    Py_ssize_t between_rows, rows, columns;
} Plane;

static void blend_rows(const float *lower, const float *upper, float a, float b, Py_ssize_t n, float *__restrict out) {
    for (Py_ssize_t i = 0; i < n; i++) {
        float p = lower[i] * a, q = upper[i] * b;
        out[i] = p + q;
    }
}

static void blend_along_row(const float *row, const Axis *x, float *__restrict out) {
    for (Py_ssize_t i = 0; i < x->size; i++) {
        float p = row[x->lower[i]] * x->lower_weight[i], q = row[x->upper[i]] * x->upper_weight[i];
        out[i] = p + q;
    }
}

/* Row y of what a step along ``axis`` makes of a plane (of two, if it goes from plane to plane). */
static void blend_row(int axis, const Plane planes[2], const Axis axes[3], Py_ssize_t z, Py_ssize_t y, float *out) {
    const Plane *plane = planes;
    const Axis *along = axes + axis;
    if (axis == 0)
        blend_rows(plane->values + y * plane->between_rows, planes[1].values + y * planes[1].between_rows,
                   along->lower_weight[z], along->upper_weight[z], plane->columns, out);
    else if (axis == 1)
        blend_rows(plane->values + along->lower[y] * plane->between_rows,
                   plane->values + along->upper[y] * plane->between_rows, along->lower_weight[y],
                   along->upper_weight[y], plane->columns, out);
    else
        blend_along_row(plane->values + y * plane->between_rows, along, out);
}

static void take_largest(const float *values, int32_t channel, Py_ssize_t n, float *__restrict best,
                         int32_t *__restrict winner) {
    for (Py_ssize_t i = 0; i < n; i++) {
        int32_t ahead = -(int32_t)(values[i] > best[i]);
        winner[i] = (winner[i] & ~ahead) | (channel & ahead);
        best[i] = values[i] > best[i] ? values[i] : best[i];
    }
}

static void take_positive(const float *values, int32_t code, Py_ssize_t n, int32_t *__restrict winner) {
    for (Py_ssize_t i = 0; i < n; i++) {
        int32_t positive = -(int32_t)(values[i] > 0);
        winner[i] = (winner[i] & ~positive) | (code & positive);
    }
}

static void store(const int32_t *codes, Py_ssize_t n, Py_ssize_t itemsize, char *out) {
    if (itemsize == 1)
        for (Py_ssize_t i = 0; i < n; i++) ((uint8_t *)out)[i] = (uint8_t)codes[i];
    else if (itemsize == 2)
        for (Py_ssize_t i = 0; i < n; i++) ((int16_t *)out)[i] = (int16_t)codes[i];
    else
        for (Py_ssize_t i = 0; i < n; i++) ((int32_t *)out)[i] = codes[i];
}

/* The channels that may win somewhere between the voxels of ``logits``: all others are less everywhere than the least
   of one of them. Three blends of two products err by less than 3 eps of the largest logit, in either channel. A
   region that is nowhere positive stays so. ``lows`` and ``highs`` have room for a row. */
static void find_contenders(const Py_buffer *logits, int regions, float *__restrict lows, float *__restrict highs,
                            float *most, char *contends) {
    const Py_ssize_t *shape = logits->shape, *strides = logits->strides;
    float floor = -INFINITY, largest = 0;
    for (Py_ssize_t channel = 0; channel < shape[0]; channel++) {
        for (Py_ssize_t x = 0; x < shape[3]; x++) lows[x] = INFINITY, highs[x] = -INFINITY;
        for (Py_ssize_t z = 0; z < shape[1]; z++)
            for (Py_ssize_t y = 0; y < shape[2]; y++) {
                const float *row = (const float *)((const char *)logits->buf + channel * strides[0] + z * strides[1] +
                                                   y * strides[2]);
                for (Py_ssize_t x = 0; x < shape[3]; x++) {
                    lows[x] = row[x] < lows[x] ? row[x] : lows[x];
                    highs[x] = row[x] > highs[x] ? row[x] : highs[x];
                }
            }
        float low = INFINITY, high = -INFINITY;
        for (Py_ssize_t x = 0; x < shape[3]; x++) {
            low = lows[x] < low ? lows[x] : low;
            high = highs[x] > high ? highs[x] : high;
        }
        most[channel] = high;
        if (low > floor) floor = low;
        if (high > largest) largest = high;
        if (-low > largest) largest = -low;
    }
    const float lead = 16 * FLT_EPSILON * largest;
    for (Py_ssize_t channel = 0; channel < shape[0]; channel++)
        contends[channel] = regions ? most[channel] > 0 : !(most[channel] < floor - lead);
}

/* Decides all planes; ``steps`` are the axes to blend, in order. Returns 0, or -1 without memory. */
static int decide_planes(const Py_buffer *logits, const Py_buffer *out, const Axis axes[3], const int *steps, int count,
                         int regions) {
    const Py_ssize_t channels = logits->shape[0], rows = out->shape[1], columns = out->shape[2];
    const Py_ssize_t tallest = rows > logits->shape[2] ? rows : logits->shape[2];
    const Py_ssize_t widest = columns > logits->shape[3] ? columns : logits->shape[3];
    const Py_ssize_t area = tallest * widest;
    /* Four buffers: a step reads one or two planes and writes into others. */
    float *work = malloc(sizeof(float) * (size_t)(4 * area + widest)), *best = malloc(sizeof(float) * (size_t)area);
    int32_t *winner = malloc(sizeof(int32_t) * (size_t)area);
    float *most = malloc(sizeof(float) * (size_t)channels);
    char *contends = malloc((size_t)channels);
    int failed = work == NULL || best == NULL || winner == NULL || most == NULL || contends == NULL;
    if (!failed) find_contenders(logits, regions, work, work + widest, most, contends);

    for (Py_ssize_t z = 0; !failed && z < out->shape[0]; z++) {
        for (Py_ssize_t i = 0; i < rows * columns; i++) best[i] = -INFINITY, winner[i] = 0;
        for (Py_ssize_t channel = 0; channel < channels; channel++) {
            if (!contends[channel]) continue;
            const char *first = (const char *)logits->buf + channel * logits->strides[0];
            const Py_ssize_t between_rows = logits->strides[2] / (Py_ssize_t)sizeof(float);
            int held = axes[0].moves ? 2 : 1, turn = 0;
            Plane planes[2];
            for (int i = 0; i < held; i++) {
                Py_ssize_t at = !axes[0].moves ? z : (i == 0 ? axes[0].lower : axes[0].upper)[z];
                Plane source = {(const float *)(first + at * logits->strides[1]), between_rows, logits->shape[2],
                                logits->shape[3]};
                planes[i] = source;
            }
            for (int step = 0; step < count - 1; step++, turn = !turn) {
                const int axis = steps[step];
                const int made = axis == 0 ? 1 : held;
                for (int i = 0; i < made; i++) {
                    float *values = work + (2 * turn + i) * area;
                    Plane next = {values, 0, planes[i].rows, planes[i].columns};
                    if (axis == 1) next.rows = axes[1].size;
                    if (axis == 2) next.columns = axes[2].size;
                    next.between_rows = next.columns;
                    for (Py_ssize_t y = 0; y < next.rows; y++)
                        blend_row(axis, planes + i, axes, z, y, values + y * next.columns);
                    planes[i] = next;
                }
                held = made;
            }
            float *row = work + 4 * area;
            for (Py_ssize_t y = 0; y < rows; y++) {
                const float *values = row;
                if (count > 0)
                    blend_row(steps[count - 1], planes, axes, z, y, row);
                else
                    values = planes[0].values + y * planes[0].between_rows;
                if (regions)
                    take_positive(values, (int32_t)channel + 1, columns, winner + y * columns);
                else
                    take_largest(values, (int32_t)channel, columns, best + y * columns, winner + y * columns);
            }
        }
        for (Py_ssize_t y = 0; y < rows; y++)
            store(winner + y * columns, columns, out->itemsize,
                  (char *)out->buf + z * out->strides[0] + y * out->strides[1]);
    }
    free(work);
    free(best);
    free(winner);
    free(most);
    free(contends);
    return failed ? -1 : 0;
}

/* The tables of an axis, checked: None, or (lower, upper, lower_weight, upper_weight). Returns 0, or -1 with an
   error. */
static int read_axis(PyObject *tables, Py_ssize_t old, Py_ssize_t size, Axis *axis) {
    axis->old = old;
    axis->size = size;
    if (tables == Py_None) {
        if (old == size) return 0;
        PyErr_SetString(PyExc_ValueError, "an axis without tables keeps its size");
        return -1;
    }
    Py_buffer *buffers = axis->buffers;
    if (!PyArg_ParseTuple(tables, "y*y*y*y*", buffers, buffers + 1, buffers + 2, buffers + 3)) return -1;
    axis->moves = 1;
    axis->lower = buffers[0].buf;
    axis->upper = buffers[1].buf;
    axis->lower_weight = buffers[2].buf;
    axis->upper_weight = buffers[3].buf;
    int fits = 1;
    for (int i = 0; i < 4; i++) fits &= buffers[i].len == size * (Py_ssize_t)(i < 2 ? sizeof(int64_t) : sizeof(float));
    for (Py_ssize_t i = 0; fits && i < size; i++)
        fits = axis->lower[i] >= 0 && axis->lower[i] < old && axis->upper[i] >= 0 && axis->upper[i] < old;
    if (fits) return 0;
    PyErr_SetString(PyExc_ValueError, "tables of an axis: wrong length, or an index outside");
    return -1;
}

static PyObject *decide(PyObject *module, PyObject *args) {
    PyObject *source, *target, *tables[3];
    int order[3], regions;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO(OOO)(iii)p", &source, &target, tables, tables + 1, tables + 2, order, order + 1,
                          order + 2, &regions))
        return NULL;
    Py_buffer logits = {0}, out = {0};
    Axis axes[3] = {{0}};
    PyObject *result = NULL;
    if (PyObject_GetBuffer(source, &logits, PyBUF_STRIDED_RO) || PyObject_GetBuffer(target, &out, PyBUF_STRIDED))
        goto done;
    const Py_ssize_t width = sizeof(float);
    if (logits.ndim != 4 || logits.itemsize != width || logits.strides[3] != width || logits.strides[2] % width ||
        out.ndim != 3 || out.strides[2] != out.itemsize ||
        (out.itemsize != 1 && out.itemsize != 2 && out.itemsize != 4)) {
        PyErr_SetString(PyExc_ValueError,
                        "expected float32 logits (C, Z, Y, X) and integers (Z, Y, X), X side by side");
        goto done;
    }
    int steps[3], count = 0, seen = 0;
    for (int axis = 0; axis < 3; axis++)
        if (read_axis(tables[axis], logits.shape[axis + 1], out.shape[axis], axes + axis)) goto done;
    for (int i = 0; i < 3; i++) {
        if (order[i] < 0 || order[i] > 2 || seen & (1 << order[i])) {
            PyErr_SetString(PyExc_ValueError, "order: expected 0, 1 and 2, each once");
            goto done;
        }
        seen |= 1 << order[i];
        if (axes[order[i]].moves) steps[count++] = order[i];
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = decide_planes(&logits, &out, axes, steps, count, regions);
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_NoMemory();
    else
        result = Py_NewRef(Py_None);
done:
    for (int axis = 0; axis < 3; axis++)
        for (int i = 0; i < 4; i++)
            if (axes[axis].buffers[i].obj != NULL) PyBuffer_Release(axes[axis].buffers + i);
    if (logits.obj != NULL) PyBuffer_Release(&logits);
    if (out.obj != NULL) PyBuffer_Release(&out);
    return result;
}

static PyMethodDef functions[] = {
    {"decide", decide, METH_VARARGS, "See _deciding.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_deciding", NULL, 0, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__deciding(void) { return PyModuleDef_Init(&definition); }
