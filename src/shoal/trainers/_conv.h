/* One batch on a convolutional network, for one instruction set; _native.c includes this file after
 * _dense.h, once for each.
 *
 * Before, besides: PX pixels x 2 vectors of accumulators in a block, SEG vectors of a row of weights
 * at once, JR rows of a dense layer, and the switches over them.
 *
 * Forward, a block of pixels meets a panel of two vectors of outputs. Backward, most of a gradient is
 * zero where outputs were pooled and cut: each output has a list of the pixels whose gradient is not,
 * and the weights' gradient and the input's are sums over that list.
 */

#define V NAME(V)
#define AT(p) (*(V *)(p))
#define IN(p) (*(const V *)(p))
typedef int32_t NAME(I) __attribute__((vector_size(4 * LANES)));
#define I NAME(I)

/* Each number is compiled on its own, so that the accumulators stay in registers. */
#define PIXELS(call) \
    switch (n) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    case 4: call(4); break; \
    case 5: call(5); break; \
    case 6: call(6); break; \
    MORE_PIXELS(call) \
    }
#define SEGMENTS(call) \
    switch (n) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    case 4: call(4); break; \
    case 5: call(5); break; \
    case 6: call(6); break; \
    case 7: call(7); break; \
    case 8: call(8); break; \
    MORE_SEGMENTS(call) \
    }
#define JROWS(call) \
    switch (rows) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    case 4: call(4); break; \
    MORE_JROWS(call) \
    }

/* Weights as panels of two vectors of outputs: (panel, row, column, in, outputs of the panel). */
static void NAME(turn)(const Conv *g, const float *from, float *to) {
    const int taps = g->kernel * g->run;
    for (int j = 0; j < g->ld; j += 2 * LANES) {
        const int wide = g->ld - j > LANES ? 2 * LANES : LANES;
        for (int at = 0; at < taps; at += 16) {
            const int some = taps - at < 16 ? taps - at : 16;
            for (int o = 0; o < wide && j + o < g->out; o++) {
                const float *line = from + (ptrdiff_t)(j + o) * g->row + at;
                for (int t = 0; t < some; t++) to[(ptrdiff_t)(at + t) * wide + o] = line[t];
            }
        }
        to += (ptrdiff_t)taps * wide;
    }
}

/* out[i][:] = bias[:] + sum over the kernel of in[i + ...] w[...][:], `pixels` in a row. */
INLINE void NAME(conv_block)(const Conv *g, const float *in, const float *w, const float *bias,
                             float *out, const int pixels, const int two) {
    V sum[PX][2];
#pragma GCC unroll 16
    for (int i = 0; i < pixels; i++) {
        sum[i][0] = IN(bias);
        if (two) sum[i][1] = IN(bias + LANES);
    }
    const ptrdiff_t step = g->step;
    for (int k = 0; k < g->kernel; k++, in += g->down) {
        const float *p[(PX + 2) / 3];
#pragma GCC unroll 16
        for (int i = 0; i < pixels; i += 3) p[i / 3] = in + i * step;
        for (int c = 0; c < g->run; c++, w += two ? 2 * LANES : LANES) {
            const V first = IN(w), second = two ? IN(w + LANES) : first;
#pragma GCC unroll 16
            for (int i = 0; i < pixels; i++) {
                const float x = p[i / 3][i % 3 * step];
                sum[i][0] += first * x;
                if (two) sum[i][1] += second * x;
            }
#pragma GCC unroll 16
            for (int i = 0; i < pixels; i += 3) p[i / 3]++;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < pixels; i++) {
        AT(out + (ptrdiff_t)i * g->ld) = sum[i][0];
        if (two) AT(out + (ptrdiff_t)i * g->ld + LANES) = sum[i][1];
    }
}

/* One row of outputs, as wide as is pooled. */
static void NAME(convolve)(const Conv *g, const float *in, const float *w, const float *bias,
                           float *out) {
    const int columns = g->pw * g->pool, blocks = (columns + PX - 1) / PX;
    for (int j = 0; j < g->ld; j += 2 * LANES) {
        const int two = g->ld - j > LANES;
        for (int b = 0; b < blocks; b++) {
            const int x = columns * b / blocks, n = columns * (b + 1) / blocks - x;
            const float *from = in + (ptrdiff_t)x * g->step;
            float *to = out + (ptrdiff_t)x * g->ld + j;
#define CALL(n) \
    if (two) NAME(conv_block)(g, from, w, bias + j, to, n, 1); \
    else NAME(conv_block)(g, from, w, bias + j, to, n, 0)
            PIXELS(CALL)
#undef CALL
        }
        w += (ptrdiff_t)g->kernel * g->run * (two ? 2 * LANES : LANES);
    }
}

/* The largest of each window, and which it was; a NaN is the largest. */
static void NAME(pool)(const Conv *g, const float *rows, float *out, int step, int32_t *which) {
    const ptrdiff_t line = (ptrdiff_t)g->pw * g->pool * g->ld;
    for (int x = 0; x < g->pw; x++, out += step, which += g->ld)
        for (int c = 0; c < g->ld; c += LANES) {
            const float *at = rows + (ptrdiff_t)x * g->pool * g->ld + c;
            V best = IN(at);
            I place = {0};
            for (int k = 1; k < g->pool * g->pool; k++) {
                const V v = IN(at + k / g->pool * line + k % g->pool * g->ld);
                const I more = (v > best) | (v != v);
                best = (V)((more & (I)v) | (~more & (I)best));
                place = (more & k) | (~more & place);
            }
            AT(out + c) = best;
            *(I *)(which + c) = place;
        }
}

/* All convolutions on one example; what is kept for the way back is in s. */
static void NAME(conv_forward)(const Net *net, Space *s, int example) {
    for (int l = 0; l < net->convs; l++) {
        const Conv *g = &net->conv[l], *next = l + 1 < net->convs ? g + 1 : NULL;
        const float *in = s->image[l] + (ptrdiff_t)example * conv_image(g);
        float *out = next ? s->image[l + 1] + (ptrdiff_t)example * conv_image(next) +
                                (ptrdiff_t)next->border * (next->down + next->step)
                          : s->features + (ptrdiff_t)example * net->layer[0].ld;
        const ptrdiff_t down = next ? next->down : g->pw * g->ld;
        int32_t *which = s->which[l] + (ptrdiff_t)example * conv_pixels(g) * g->ld;
        for (int y = 0; y < g->ph; y++, out += down, which += g->pw * g->ld) {
            for (int r = 0; r < g->pool; r++)
                NAME(convolve)(g, in + (ptrdiff_t)(y * g->pool + r) * g->down, s->panels + g->panels,
                               s->local + g->bias,
                               s->rows + (ptrdiff_t)r * g->pw * g->pool * g->ld);
            NAME(pool)(g, s->rows, out, g->ld, which);
            if (g->out == g->ld)
                activate(net->activation, out, 1, g->pw * g->ld, 0);
            else
                activate(net->activation, out, g->pw, g->out, g->ld);
        }
    }
}

/* For each output, the pixels whose gradient is not zero; adds the bias's gradient. */
static void NAME(conv_lists)(const Net *net, const Conv *g, Space *s, const float *h, float *d,
                             ptrdiff_t down, const int32_t *which, int first) {
    const int most = conv_pixels(g), step = first ? g->row : g->step;
    const ptrdiff_t line = first ? (ptrdiff_t)g->w * g->row : g->down;
    int32_t jump[MOST_POOL * MOST_POOL];
    for (int k = 0; k < g->pool * g->pool; k++)
        jump[k] = (int32_t)(k / g->pool * line + k % g->pool * step);
    memset(s->count, 0, sizeof(int32_t) * (size_t)g->ld);
    float *bias = s->grad + g->bias;
    for (int y = 0; y < g->ph; y++, h += down, d += down) {
        slope(net->activation, h, d, g->pw * g->ld);
        for (int x = 0; x < g->pw; x++, which += g->ld) {
            const float *each = d + x * g->ld;
            const int32_t at = (int32_t)(y * g->pool * line) + x * g->pool * step;
            for (int c = 0; c < g->out; c++) {
                const int n = s->count[c];
                const ptrdiff_t to = (ptrdiff_t)c * most + n;
                s->where[to] = at + jump[which[c]];
                s->what[to] = each[c];
                s->count[c] = n + (each[c] != 0);
            }
            if (g->biased)
                for (int c = 0; c < g->ld; c += LANES) AT(bias + c) += IN(each + c);
        }
    }
}

/* to[:] += sum over the list of what * x[where + :], n vectors; u of the list at once. */
INLINE void NAME(collect)(const float *x, const int32_t *where, const float *what, int count,
                          float *to, const int n, const int u) {
    V sum[4][SEG];
#pragma GCC unroll 4
    for (int a = 0; a < u; a++)
#pragma GCC unroll 32
        for (int v = 0; v < n; v++) sum[a][v] = (V){0};
    int e = 0;
    for (; e + u <= count; e += u)
#pragma GCC unroll 4
        for (int a = 0; a < u; a++) {
            const float *at = x + where[e + a];
            const float g = what[e + a];
            OPAQUE(at);
#pragma GCC unroll 32
            for (int v = 0; v < n; v++) sum[a][v] += IN(at + v * LANES) * g;
        }
    for (; e < count; e++)
#pragma GCC unroll 32
        for (int v = 0; v < n; v++) sum[0][v] += IN(x + where[e] + v * LANES) * what[e];
#pragma GCC unroll 4
    for (int a = 1; a < u; a++)
#pragma GCC unroll 32
        for (int v = 0; v < n; v++) sum[0][v] += sum[a][v];
#pragma GCC unroll 32
    for (int v = 0; v < n; v++) AT(to + v * LANES) += sum[0][v];
}

/* dx[where + :] += what * w[:] over the list, n vectors. */
INLINE void NAME(strew)(float *dx, const int32_t *where, const float *what, int count,
                        const float *w, const int n) {
    V kept[SEG];
#pragma GCC unroll 32
    for (int v = 0; v < n; v++) kept[v] = IN(w + v * LANES);
    for (int e = 0; e < count; e++) {
        float *at = dx + where[e];
        const float g = what[e];
        OPAQUE(at);
#pragma GCC unroll 32
        for (int v = 0; v < n; v++) AT(at + v * LANES) += kept[v] * g;
    }
}

/* From a convolution's lists: its weights' gradient, or (dx) its input's. One after the other, so that
 * only one of input and gradient need lie in the nearest cache. */
static void NAME(conv_sums)(const Conv *g, Space *s, const float *x, float *dx, int first) {
    const int rows = first ? 1 : g->kernel;
    const int vectors = (first ? g->row : g->run) / LANES, parts = (vectors + SEG - 1) / SEG;
    for (int o = 0; o < g->out; o++) {
        const int32_t *where = s->where + (ptrdiff_t)o * conv_pixels(g);
        const float *what = s->what + (ptrdiff_t)o * conv_pixels(g);
        const int count = s->count[o];
        const ptrdiff_t own = g->weight + (ptrdiff_t)o * g->row;
        for (int k = 0; k < rows; k++)
            for (int p = 0; p < parts; p++) {
                const int v = vectors * p / parts, n = vectors * (p + 1) / parts - v;
                const ptrdiff_t at = own + (ptrdiff_t)k * g->run + v * LANES;
                const ptrdiff_t in = (ptrdiff_t)k * g->down + v * LANES;
                if (dx) {
#define CALL(n) NAME(strew)(dx + in, where, what, count, s->local + at, n)
                    SEGMENTS(CALL)
#undef CALL
                } else {
#define CALL(n) \
    NAME(collect)(x + in, where, what, count, s->grad + at, n, (n) > 6 ? 1 : (n) > 3 ? 2 : 4)
                    SEGMENTS(CALL)
#undef CALL
                }
            }
    }
}

static void NAME(conv_backward)(const Net *net, Space *s, int example) {
    const Conv *last = &net->conv[net->convs - 1];
    float *d = s->dz + (ptrdiff_t)example * net->layer[0].ld;
    const float *h = s->features + (ptrdiff_t)example * net->layer[0].ld;
    ptrdiff_t down = last->pw * last->ld;
    for (int l = net->convs - 1; l >= 0; l--) {
        const Conv *g = &net->conv[l];
        const float *x = s->image[l] + (ptrdiff_t)example * conv_image(g);
        const int32_t *which = s->which[l] + (ptrdiff_t)example * conv_pixels(g) * g->ld;
        NAME(conv_lists)(net, g, s, h, d, down, which, l == 0);
        if (l) {
            float *dx = s->dimage[l % 2];
            NAME(conv_sums)(g, s, x, NULL, 0);
            memset(dx, 0, 4 * (size_t)conv_image(g));
            NAME(conv_sums)(g, s, x, dx, 0);
            const ptrdiff_t inside = (ptrdiff_t)g->border * (g->down + g->step);
            d = dx + inside, h = x + inside, down = g->down;
        } else {
            conv_patches(g, x, s->patches);
            NAME(conv_sums)(g, s, s->patches, NULL, 1);
        }
    }
}

/* dx[i] += sum over rows j of dz[i][j] w[j]; to[j] = fused ? w[j] + scale * g[j] : g[j], where
 * g[j] = sum over i of dz[i][j] x[i]. */
INLINE void NAME(back_block)(const float *dz, int ldz, const float *w, float *to, const float *x,
                             float *dx, int ld, int m, float scale, int fused, const int rows) {
    for (int k = 0; k < ld; k += LANES) {
        V kept[JR], sum[JR];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) kept[r] = IN(w + (ptrdiff_t)r * ld + k), sum[r] = (V){0};
        for (int i = 0; i < m; i++) {
            const float *g = dz + (ptrdiff_t)i * ldz;
            const V value = IN(x + (ptrdiff_t)i * ld + k);
            V even = IN(dx + (ptrdiff_t)i * ld + k), odd = {0};
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                sum[r] += value * g[r];
                if (r % 2) odd += kept[r] * g[r];
                else even += kept[r] * g[r];
            }
            AT(dx + (ptrdiff_t)i * ld + k) = even + odd;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            AT(to + (ptrdiff_t)r * ld + k) = fused ? kept[r] + sum[r] * scale : sum[r];
    }
}

static void NAME(back)(const Layer *y, const float *dz, const float *w, float *to, const float *x,
                       float *dx, int m, float scale, int fused) {
    memset(dx, 0, 4 * (size_t)m * (size_t)y->ld);
    for (int j = 0; j < y->out; j += JR) {
        const int rows = y->out - j < JR ? y->out - j : JR;
        const ptrdiff_t at = (ptrdiff_t)j * y->ld;
#define CALL(n) \
    NAME(back_block)(dz + j, y->pad, w + at, to + at, x, dx, y->ld, m, scale, fused, n)
        JROWS(CALL)
#undef CALL
    }
}

/* As `batch`, on images. */
static double NAME(conv_batch)(const Net *net, const Task *task, Space *s, const int64_t *rows,
                               int m, int first) {
    const int last = net->layers - 1, own = net->layer[0].weight;
    for (int l = 0; l < net->convs; l++)
        NAME(turn)(&net->conv[l], s->local + net->conv[l].weight, s->panels + net->conv[l].panels);
    for (int i = 0; i < m; i++) {
        conv_input(net->conv, task->x + rows[i] * net->inputs,
                   s->image[0] + (ptrdiff_t)i * conv_image(net->conv));
        NAME(conv_forward)(net, s, i);
    }
    for (int l = 0; l <= last; l++) {
        const Layer *y = &net->layer[l];
        NAME(dots)(l ? s->value[l - 1] : s->features, y->ld, s->local + y->weight, y->ld, y->ld,
                   s->value[l], y->pad, s->local + y->bias, m, y->out);
        if (l < last) activate(net->activation, s->value[l], m, y->out, y->pad);
    }
    double loss = cross_entropy(s->value[last], s->dz, task->y, rows, m, net->layer[last].out,
                                net->layer[last].pad);
    const int fused = task->plain;
    float *target = fused ? s->local : s->grad;
    const float scale = fused ? -task->lr : 1.0f;
    memset(s->grad, 0, 4 * (size_t)own);
    for (int l = last; l >= 0; l--) {
        const Layer *y = &net->layer[l];
        NAME(back)(y, s->dz, s->local + y->weight, target + y->weight,
                   l ? s->value[l - 1] : s->features, s->next, m, scale, fused);
        if (y->biased)
            for (int j = 0; j < y->pad; j++) {
                float sum = 0;
                for (int i = 0; i < m; i++) sum += s->dz[(ptrdiff_t)i * y->pad + j];
                target[y->bias + j] = fused ? target[y->bias + j] + sum * scale : sum;
            }
        if (l) slope(net->activation, s->value[l - 1], s->next, m * y->ld);
        float *swap = s->dz;
        s->dz = s->next;
        s->next = swap;
    }
    for (int i = 0; i < m; i++) NAME(conv_backward)(net, s, i);
    if (!fused)
        NAME(step)(net, task, s, first);
    else
        for (int i = 0; i < own; i += LANES) AT(s->local + i) += IN(s->grad + i) * scale;
    return loss;
}
#undef V
#undef AT
#undef IN
#undef I
#undef PIXELS
#undef SEGMENTS
#undef JROWS
