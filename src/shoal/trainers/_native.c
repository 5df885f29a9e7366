/* Whole local rounds on dense networks, or on convolutions in front of one: one call trains a cohort,
 * one task after another.
 *
 * A job is a list of tasks. Threads call `run` on the same job, without the GIL, and take the next
 * task until none is left; a task is trained by one thread, its weights in that core's own cache,
 * so its bits depend neither on the cohort nor on the threads, only on the processor's kind.
 * dense.py says what is computed; whoever changes the arguments changes VERSION there and here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 2
#define JOB "shoal.trainers.job"
#define MOST_LAYERS 16
#define PAD 16 /* floats: rows are padded to whole vectors of the widest kind */
#define LARGEST (1 << 27) /* values of a network or of a batch: below what an int counts */
#define INLINE static inline __attribute__((always_inline))
#define VIEWS 6
/* The address is computed once, not anew for each vector that lies behind it. */
#define OPAQUE(p) __asm__("" : "+r"(p))

enum { RELU, TANH, SIGMOID };

typedef struct {
    int in, out, pad; /* pad: `out` padded */
    int rows, ld;     /* of the weights as they are kept */
    int weight, bias; /* where they begin */
    int biased;
    int turned; /* kept as (in, out) */
} Layer;

static int padded(int n) { return (n + PAD - 1) / PAD * PAD; }

#include "_stages.h"

typedef struct {
    int layers, convs, activation, values, padded, widest;
    int inputs; /* values of an example */
    int panels; /* values of all convolutions' turned weights */
    int width[MOST_LAYERS + 1];
    float clip, decay, momentum;
    Layer layer[MOST_LAYERS];
    Conv conv[MOST_CONVS];
} Net;

typedef struct {
    const float *base, *x, *extra;
    const int64_t *y, *order;
    float *delta;
    Py_ssize_t examples, ordered;
    int batch, steps, plain;
    float lr, mu;
    double loss;
    int64_t bad; /* the first target or row that does not exist, -1 for none */
} Task;

typedef struct {
    float *local, *base, *extra, *grad, *velocity; /* padded, as the net is */
    float *packed, *flipped, *dz, *next, *value[MOST_LAYERS];
    /* Of convolutions: turned weights, all examples' inputs and places of the largest, the last's
     * outputs; then of one example: rows before pooling, patches, gradients, and their lists. */
    float *panels, *image[MOST_CONVS], *features, *rows, *patches, *dimage[2], *what;
    int32_t *which[MOST_CONVS], *where, *count;
} Space;

typedef struct {
    Net net;
    Task *tasks;
    Py_ssize_t count;
    Py_buffer *views;
    Py_ssize_t held;
    int largest;                      /* batch */
    int proximal, corrected, general; /* what the tasks need space for */
    _Atomic int64_t next;
    _Atomic int failed; /* no memory */
} Job;

static void pack_rows(const float *x, int in, const int64_t *rows, int m, float *to) {
    for (int at = 0; at < in; at += PAD) {
        const int some = in - at < PAD ? in - at : PAD;
        for (int i = 0; i < m; i++) {
            const float *from = x + rows[i] * in + at;
            for (int k = 0; k < some; k++)
                to[(ptrdiff_t)(at + k) * m + i] = from[k];
        }
    }
}

static void transpose(const float *from, int ld, int m, int width, float *to) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < width; j++)
            to[(ptrdiff_t)j * m + i] = from[(ptrdiff_t)i * ld + j];
}

static void activate(int kind, float *z, int m, int width, int ld) {
    for (int i = 0; i < m; i++, z += ld)
        switch (kind) {
        case RELU:
            for (int j = 0; j < width; j++) z[j] = z[j] < 0 ? 0 : z[j]; /* keeps NaN */
            break;
        case TANH:
            for (int j = 0; j < width; j++) z[j] = tanhf(z[j]);
            break;
        default:
            for (int j = 0; j < width; j++) z[j] = 1 / (1 + expf(-z[j]));
        }
}

/* d *= the activation's slope where its value was h. */
static void slope(int kind, const float *h, float *d, int count) {
    switch (kind) {
    case RELU:
        for (int i = 0; i < count; i++) d[i] = h[i] > 0 ? d[i] : 0;
        break;
    case TANH:
        for (int i = 0; i < count; i++) d[i] *= 1 - h[i] * h[i];
        break;
    default:
        for (int i = 0; i < count; i++) d[i] *= h[i] * (1 - h[i]);
    }
}

/* The mean loss; dz is its gradient with respect to z, zero in the pads. */
static double cross_entropy(const float *z, float *dz, const int64_t *y, const int64_t *rows, int m,
                            int classes, int ld) {
    double total = 0;
    const float share = 1.0f / (float)m;
    for (int i = 0; i < m; i++, z += ld, dz += ld) {
        float top = z[0], sum = 0;
        for (int j = 1; j < classes; j++) top = z[j] > top ? z[j] : top;
        for (int j = 0; j < classes; j++) sum += dz[j] = expf(z[j] - top);
        for (int j = 0; j < classes; j++) dz[j] *= share / sum;
        for (int j = classes; j < ld; j++) dz[j] = 0;
        const int64_t wanted = y[rows[i]];
        total += logf(sum) - (z[wanted] - top);
        dz[wanted] -= share;
    }
    return total / m;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SEVERAL 1
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define NAME(x) x##_v4
#define LANES 16
#define RU 10
#define DI 5
#define DJ 4
#define ONES 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
#define MORE_ROWS(call) \
    case 6: call(6); break; \
    case 7: call(7); break; \
    case 8: call(8); break; \
    case 9: call(9); break; \
    default: call(10); break;
#define PX 14
#define MORE_PIXELS(call) \
    case 7: call(7); break; \
    case 8: call(8); break; \
    case 9: call(9); break; \
    case 10: call(10); break; \
    case 11: call(11); break; \
    case 12: call(12); break; \
    case 13: call(13); break; \
    default: call(14); break;
#define SEG 24
#define MORE_SEGMENTS(call) \
    case 9: call(9); break; \
    case 10: call(10); break; \
    case 11: call(11); break; \
    case 12: call(12); break; \
    case 13: call(13); break; \
    case 14: call(14); break; \
    case 15: call(15); break; \
    case 16: call(16); break; \
    case 17: call(17); break; \
    case 18: call(18); break; \
    case 19: call(19); break; \
    case 20: call(20); break; \
    case 21: call(21); break; \
    case 22: call(22); break; \
    case 23: call(23); break; \
    default: call(24); break;
#define JR 8
#define MORE_JROWS(call) \
    case 5: call(5); break; \
    case 6: call(6); break; \
    case 7: call(7); break; \
    default: call(8); break;
#include "_dense.h"
#include "_conv.h"
#undef NAME
#undef LANES
#undef RU
#undef DI
#undef DJ
#undef ONES
#undef MORE_ROWS
#undef PX
#undef MORE_PIXELS
#undef SEG
#undef MORE_SEGMENTS
#undef JR
#undef MORE_JROWS
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define NAME(x) x##_v3
#define LANES 8
#define RU 5
#define DI 2
#define DJ 4
#define ONES 1, 1, 1, 1, 1
#define MORE_ROWS(call)
#define PX 6
#define MORE_PIXELS(call)
#define SEG 8
#define MORE_SEGMENTS(call)
#define JR 4
#define MORE_JROWS(call)
#include "_dense.h"
#include "_conv.h"
#undef NAME
#undef LANES
#pragma GCC pop_options
#else
#define RU 5
#define DI 2
#define DJ 4
#define ONES 1, 1, 1, 1, 1
#define MORE_ROWS(call)
#define PX 6
#define MORE_PIXELS(call)
#define SEG 8
#define MORE_SEGMENTS(call)
#define JR 4
#define MORE_JROWS(call)
#endif
#define NAME(x) x##_any
#define LANES 4
#include "_dense.h"
#include "_conv.h"

typedef double (*Batch)(const Net *, const Task *, Space *, const int64_t *, int, int);

static Batch fastest(const Net *net) {
#ifdef SEVERAL
    if (__builtin_cpu_supports("x86-64-v4")) return net->convs ? conv_batch_v4 : batch_v4;
    if (__builtin_cpu_supports("x86-64-v3")) return net->convs ? conv_batch_v3 : batch_v3;
#endif
    return net->convs ? conv_batch_any : batch_any;
}

/* The first dense layer behind convolutions takes (pixel, channel), in the framework (channel, pixel).
 * Here from there, some channels at a time. */
static void features(const Conv *last, const Layer *y, const float *flat, float *to) {
    const int pixels = conv_pixels(last);
    for (int j = 0; j < y->out; j++, flat += y->in, to += y->ld)
        for (int at = 0; at < last->out; at += PAD) {
            const int end = at + PAD < last->out ? at + PAD : last->out;
            for (int p = 0; p < pixels; p++)
                for (int c = at; c < end; c++)
                    to[(ptrdiff_t)p * last->ld + c] = flat[(ptrdiff_t)c * pixels + p];
        }
}

/* And back, less the base. */
static void less_features(const Conv *last, const Layer *y, const float *from, const float *base,
                          float *delta) {
    const int pixels = conv_pixels(last);
    for (int j = 0; j < y->out; j++, base += y->in, delta += y->in, from += y->ld)
        for (int at = 0; at < last->out; at += PAD) {
            const int end = at + PAD < last->out ? at + PAD : last->out;
            for (int p = 0; p < pixels; p++)
                for (int c = at; c < end; c++) {
                    const ptrdiff_t to = (ptrdiff_t)c * pixels + p;
                    delta[to] = from[(ptrdiff_t)p * last->ld + c] - base[to];
                }
        }
}

/* From the framework's flat order to the padded one. */
static void spread(const Net *net, const float *flat, float *to) {
    for (int l = 0; l < net->convs; l++) flat = conv_spread(&net->conv[l], flat, to);
    for (int l = 0; l < net->layers; l++) {
        const Layer *y = &net->layer[l];
        float *weights = to + y->weight;
        if (!l && net->convs) {
            features(&net->conv[net->convs - 1], y, flat, weights);
        } else if (!y->turned) {
            for (int j = 0; j < y->out; j++)
                memcpy(weights + (ptrdiff_t)j * y->ld, flat + (ptrdiff_t)j * y->in,
                       4 * (size_t)y->in);
        } else {
            for (int at = 0; at < y->out; at += PAD) { /* turned, some columns at a time */
                const int some = y->out - at < PAD ? y->out - at : PAD;
                const float *from = flat + (ptrdiff_t)at * y->in;
                for (int k = 0; k < y->in; k++)
                    for (int j = 0; j < some; j++)
                        weights[(ptrdiff_t)k * y->ld + at + j] = from[(ptrdiff_t)j * y->in + k];
            }
        }
        flat += (ptrdiff_t)y->out * y->in;
        if (y->biased) {
            memcpy(to + y->bias, flat, 4 * (size_t)y->out);
            flat += y->out;
        }
    }
}

/* And back, less the base. */
static void gather(const Net *net, const float *from, const float *base, float *delta) {
    for (int l = 0; l < net->convs; l++) conv_gather(&net->conv[l], from, &base, &delta);
    for (int l = 0; l < net->layers; l++) {
        const Layer *y = &net->layer[l];
        const float *weights = from + y->weight, *bias = from + y->bias;
        /* of the inputs, the outputs */
        const ptrdiff_t down = y->turned ? y->ld : 1, along = y->turned ? 1 : y->ld;
        if (!l && net->convs) less_features(&net->conv[net->convs - 1], y, weights, base, delta);
        else for (int at = 0; at < y->in; at += PAD) {
            const int some = y->in - at < PAD ? y->in - at : PAD;
            for (int j = 0; j < y->out; j++) {
                const float *value = weights + at * down + j * along;
                const ptrdiff_t row = (ptrdiff_t)j * y->in + at;
                for (int k = 0; k < some; k++) delta[row + k] = value[k * down] - base[row + k];
            }
        }
        base += (ptrdiff_t)y->out * y->in, delta += (ptrdiff_t)y->out * y->in;
        if (y->biased) {
            for (int j = 0; j < y->out; j++) delta[j] = bias[j] - base[j];
            base += y->out, delta += y->out;
        }
    }
}

static int sound(const Net *net, Task *task) {
    const int64_t classes = net->width[net->layers], n = task->examples;
    for (Py_ssize_t i = 0; i < task->ordered; i++)
        if (task->order[i] < 0 || task->order[i] >= n) return task->bad = task->order[i], 0;
    for (int64_t i = 0; i < n; i++)
        if (task->y[i] < 0 || task->y[i] >= classes) return task->bad = i, 0;
    return 1;
}

static void train(const Net *net, Task *task, Space *s, Batch batch) {
    if (!sound(net, task)) return;
    const int64_t *at = task->order, *end = task->order + task->ordered;
    Py_ssize_t left = task->examples; /* in this epoch */
    /* The pads too: NaN times zero, of a task before, may have got there. */
    memset(s->local, 0, 4 * (size_t)net->padded);
    spread(net, task->base, s->local);
    if (task->mu != 0) memcpy(s->base, s->local, 4 * (size_t)net->padded);
    if (task->extra) spread(net, task->extra, s->extra);
    for (int step = 0; step < task->steps && at < end; step++) {
        Py_ssize_t m = left < task->batch ? left : task->batch;
        m = end - at < m ? end - at : m;
        task->loss += batch(net, task, s, at, (int)m, step == 0);
        at += m;
        left = left - m ? left - m : task->examples;
    }
    gather(net, s->local, task->base, task->delta);
}

/* Lays out what convolutions need behind a place in memory (NULL to count alone); how much that is. */
static size_t conv_space(const Net *net, Space *s, int m, float *at) {
    if (!net->convs) return 0;
    size_t image = 0, rows = 0, list = 0, widest = 0, all = 0;
    for (int l = 0; l < net->convs; l++) {
        const Conv *g = &net->conv[l];
        const size_t each = (size_t)m * (size_t)conv_image(g);
        const size_t which = (size_t)m * (size_t)(conv_pixels(g) * g->ld);
        const size_t row = (size_t)(g->pool * g->pw * g->pool * g->ld);
        const size_t pixels = (size_t)(conv_pixels(g) * g->ld);
        if (at) s->image[l] = at + all, s->which[l] = (int32_t *)(at + all + each);
        all += each + which;
        if (l && (size_t)conv_image(g) > image) image = (size_t)conv_image(g);
        rows = row > rows ? row : rows;
        list = pixels > list ? pixels : list;
        widest = (size_t)g->ld > widest ? (size_t)g->ld : widest;
    }
    const Conv *g = net->conv;
    const size_t patches = (size_t)(g->ph * g->pool) * (size_t)g->w * (size_t)g->row;
    const size_t parts[] = {(size_t)net->panels, (size_t)m * (size_t)net->layer[0].ld, rows, patches,
                            image, image, list, list, widest};
    float *place[9];
    for (int i = 0; i < 9; all += parts[i++]) place[i] = at ? at + all : NULL;
    s->panels = place[0], s->features = place[1], s->rows = place[2], s->patches = place[3];
    s->dimage[0] = place[4], s->dimage[1] = place[5], s->what = place[6];
    s->where = (int32_t *)place[7], s->count = (int32_t *)place[8];
    return all;
}

static float *space(Space *s, const Job *job) {
    const Net *net = &job->net;
    const int m = job->largest;
    const size_t whole = (size_t)net->padded, side = (size_t)m * (size_t)net->widest;
    const int needed[] = {1, job->proximal, job->corrected, job->general || net->convs,
                          net->momentum != 0};
    int parts = 0;
    for (int i = 0; i < 5; i++) parts += needed[i];
    const int turned = net->layer[0].turned;
    const size_t packed = turned ? (size_t)padded(m) * (size_t)padded(net->width[0]) : 0;
    const size_t flipped = turned ? (size_t)padded(m) * (size_t)net->widest : 0;
    size_t total = (size_t)parts * whole + packed + flipped + 2 * side + PAD;
    for (int l = 0; l < net->layers; l++) total += (size_t)m * (size_t)net->layer[l].pad;
    total += conv_space(net, s, m, NULL);
    float *memory = calloc(total, 4), *at = memory;
    if (!memory) return NULL;
    at = (float *)(((uintptr_t)at + 63) & ~(uintptr_t)63);
    float **whole_ones[] = {&s->local, &s->base, &s->extra, &s->grad, &s->velocity};
    for (int i = 0; i < 5; i++) {
        *whole_ones[i] = at;
        if (needed[i]) at += whole;
    }
    s->packed = at, at += packed;
    s->flipped = at, at += flipped;
    s->dz = at, at += side;
    s->next = at, at += side;
    for (int l = 0; l < net->layers; l++, at += (size_t)m * (size_t)net->layer[l - 1].pad)
        s->value[l] = at;
    conv_space(net, s, m, at);
    return memory;
}

static void release(PyObject *capsule) {
    Job *job = PyCapsule_GetPointer(capsule, JOB);
    if (!job) return;
    for (Py_ssize_t i = 0; i < job->held; i++) PyBuffer_Release(&job->views[i]);
    free(job->views);
    free(job->tasks);
    free(job);
}

/* Each convolution is a tuple (in, out, kernel, border, pool, biased). */
static int stages(Net *net, PyObject *convs, int height, int width, int64_t *values, int64_t *at) {
    const Py_ssize_t count = PyTuple_Size(convs);
    int64_t panels = 0;
    if (count > MOST_CONVS) return 0;
    for (; net->convs < count; net->convs++) {
        Conv *g = &net->conv[net->convs];
        PyObject *fields = PyTuple_GetItem(convs, net->convs);
        if (!PyTuple_Check(fields) || !PyArg_ParseTuple(fields, "iiiiip", &g->in, &g->out, &g->kernel,
                                                        &g->border, &g->pool, &g->biased))
            return 0;
        if (net->convs ? g->in != g[-1].out : height < 1 || width < 1) return 0;
        if (!net->convs) net->inputs = g->in * height * width;
        if (!conv_layout(g, height, width, !net->convs, at, &panels)) return 0;
        height = g->ph, width = g->pw;
        *values += (int64_t)g->in * g->out * g->kernel * g->kernel + (g->biased ? g->out : 0);
    }
    net->panels = (int)panels;
    return 1;
}

static int layout(Net *net, PyObject *widths, PyObject *biased, PyObject *convs, int height,
                  int width) {
    const Py_ssize_t count = PyTuple_Size(widths);
    if (count < 2 || count > MOST_LAYERS + 1 || PyTuple_Size(biased) != count - 1) return 0;
    int64_t values = 0, at = 0;
    if (!stages(net, convs, height, width, &values, &at)) return 0;
    const Conv *last = net->convs ? &net->conv[net->convs - 1] : NULL;
    net->layers = (int)count - 1;
    for (int i = 0; i < count; i++) {
        long width = PyLong_AsLong(PyTuple_GetItem(widths, i));
        if (width < 1 || width > LARGEST) return 0;
        net->width[i] = (int)width;
        if (padded((int)width) > net->widest) net->widest = padded((int)width);
    }
    for (int l = 0; l < net->layers; l++) {
        Layer *y = &net->layer[l];
        y->in = net->width[l], y->out = net->width[l + 1];
        y->pad = padded(y->out);
        y->turned = !l && !last;
        y->rows = y->turned ? y->in : y->out;
        y->ld = y->turned ? y->pad : padded(y->in);
        if (!l && last) {
            if (y->in != conv_pixels(last) * last->out) return 0;
            y->ld = conv_pixels(last) * last->ld;
            if (y->ld > net->widest) net->widest = y->ld;
        }
        y->biased = PyObject_IsTrue(PyTuple_GetItem(biased, l));
        y->weight = (int)at, at += (int64_t)y->rows * y->ld;
        y->bias = (int)at, at += y->pad;
        values += (int64_t)y->in * y->out + (y->biased ? y->out : 0);
        if (at > LARGEST) return 0;
    }
    net->values = (int)values, net->padded = (int)at;
    if (!last) net->inputs = net->width[0];
    return 1;
}

static int take(Job *job, PyObject *item, Task *task) {
    Py_buffer *view = &job->views[job->held];
    PyObject *extra;
    if (!PyArg_ParseTuple(item, "y*y*y*y*w*Oniiff:task", &view[0], &view[1], &view[2], &view[3],
                          &view[4], &extra, &task->examples, &task->batch, &task->steps, &task->lr,
                          &task->mu))
        return 0;
    job->held += 5;
    if (extra != Py_None) {
        if (PyObject_GetBuffer(extra, &view[5], PyBUF_C_CONTIGUOUS)) return 0;
        job->held++;
    }
    const Net *net = &job->net;
    const Py_ssize_t whole = 4 * (Py_ssize_t)net->values, n = task->examples;
    if (view[0].len != whole || view[4].len != whole || (extra != Py_None && view[5].len != whole) ||
        n < 1 || view[1].len != 4 * n * net->inputs || view[2].len != 8 * n || task->batch < 1 ||
        (int64_t)task->batch * net->widest > LARGEST || task->steps < 0) {
        PyErr_SetString(PyExc_ValueError, "a task's arrays do not fit the network");
        return 0;
    }
    task->base = view[0].buf, task->x = view[1].buf, task->y = view[2].buf;
    task->order = view[3].buf, task->ordered = view[3].len / 8, task->delta = view[4].buf;
    task->extra = extra == Py_None ? NULL : view[5].buf;
    task->plain = !(net->clip > 0) && net->decay == 0 && net->momentum == 0 && task->mu == 0 &&
                  !task->extra;
    job->proximal |= task->mu != 0;
    job->corrected |= task->extra != NULL;
    job->general |= !task->plain;
    task->bad = -1;
    if (task->batch > n) task->batch = (int)n;
    if (task->batch > job->largest) job->largest = task->batch;
    return 1;
}

static PyObject *prepare(PyObject *module, PyObject *args) {
    PyObject *widths, *biased, *convs, *tasks;
    int height, width;
    Job *job = calloc(1, sizeof(Job));
    if (!job) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(job, JOB, release);
    if (!capsule) return free(job), NULL;
    Net *net = &job->net;
    if (!PyArg_ParseTuple(args, "O!O!O!iiifffO!:prepare", &PyTuple_Type, &widths, &PyTuple_Type, &biased,
                          &PyTuple_Type, &convs, &height, &width, &net->activation, &net->clip,
                          &net->decay, &net->momentum, &PyList_Type, &tasks))
        goto fail;
    if (!layout(net, widths, biased, convs, height, width)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no network for these kernels");
        goto fail;
    }
    const Py_ssize_t count = PyList_Size(tasks);
    job->tasks = calloc((size_t)count + 1, sizeof(Task));
    job->views = calloc((size_t)count * VIEWS + 1, sizeof(Py_buffer));
    if (!job->tasks || !job->views) {
        PyErr_NoMemory();
        goto fail;
    }
    for (; job->count < count; job->count++)
        if (!take(job, PyList_GetItem(tasks, job->count), &job->tasks[job->count])) goto fail;
    return capsule;
fail:
    Py_DECREF(capsule);
    return NULL;
}

static PyObject *run(PyObject *module, PyObject *capsule) {
    Job *job = PyCapsule_GetPointer(capsule, JOB);
    if (!job) return NULL;
    Py_BEGIN_ALLOW_THREADS
    Space s;
    float *memory = NULL;
    Batch batch = fastest(&job->net);
    for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) {
        if (!memory && !(memory = space(&s, job))) {
            atomic_store(&job->failed, 1);
            break;
        }
        train(&job->net, &job->tasks[i], &s, batch);
    }
    free(memory);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *results(PyObject *module, PyObject *capsule) {
    Job *job = PyCapsule_GetPointer(capsule, JOB);
    if (!job) return NULL;
    if (atomic_load(&job->failed)) return PyErr_NoMemory();
    PyObject *found = PyList_New(job->count);
    for (Py_ssize_t i = 0; found && i < job->count; i++) {
        const Task *task = &job->tasks[i];
        PyObject *pair = Py_BuildValue("(dL)", task->loss, (long long)task->bad);
        if (!pair || PyList_SetItem(found, i, pair)) {
            Py_DECREF(found);
            return NULL;
        }
    }
    return found;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_VARARGS, NULL},
    {"run", run, METH_O, NULL},
    {"results", results, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", VERSION)) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
