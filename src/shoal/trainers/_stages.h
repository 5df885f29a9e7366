/* Convolutions in front of the dense layers: what they are made of, and their weights' order.
 *
 * Inputs lie with their channels last and a border of zeros around them. A convolution's weights are
 * kept as (out, row, column, in), as its gradient comes to be; the forward pass reads a copy that is
 * turned once a step. Channels are padded to whole vectors, but for the first input's.
 */
#define MOST_CONVS 16
#define MOST_POOL 16

typedef struct {
    int in, out, kernel, border, pool, biased;
    int step;         /* floats from one pixel of the input to the next */
    int down, height; /* the input with its border: floats from row to row, rows */
    int h, w, ph, pw; /* what comes out, before and after pooling */
    int ld;           /* out, padded */
    int run, row;     /* weights of an output that meet one row of the input; all, padded */
    int weight, bias; /* where they begin */
    int panels;       /* where the turned copy begins */
} Conv;

static int conv_image(const Conv *g) { return padded(g->height * g->down); }
static int conv_pixels(const Conv *g) { return g->ph * g->pw; }

/* Sizes that follow; 0 if there is nothing left to pool or it is too large. */
static int conv_layout(Conv *g, int height, int width, int first, int64_t *at, int64_t *panels) {
    const int64_t rows = (int64_t)height + 2 * g->border, columns = (int64_t)width + 2 * g->border;
    if (g->in < 1 || g->out < 1 || g->kernel < 1 || g->border < 0 || g->pool < 1) return 0;
    if (rows > 4096 || columns > 4096 || g->kernel > 64 || g->pool > MOST_POOL || g->in > 65536 || g->out > 65536) return 0;
    g->step = first ? g->in : padded(g->in);
    g->height = (int)rows, g->down = (int)columns * g->step;
    g->h = (int)rows - g->kernel + 1, g->w = (int)columns - g->kernel + 1;
    g->ph = g->h / g->pool, g->pw = g->w / g->pool;
    if (g->h < 1 || g->w < 1 || g->ph < 1 || g->pw < 1) return 0;
    g->ld = padded(g->out);
    g->run = g->kernel * g->step;
    g->row = padded(g->kernel * g->run);
    g->weight = (int)*at, *at += (int64_t)g->out * g->row;
    g->bias = (int)*at, *at += g->ld;
    g->panels = (int)*panels, *panels += (int64_t)g->kernel * g->run * (g->ld + PAD);
    const int64_t most = (int64_t)g->h * g->w * (first ? g->row : g->ld);
    return *at <= LARGEST && *panels <= LARGEST && most <= LARGEST &&
           (int64_t)g->height * g->down <= LARGEST;
}

/* From the framework's (out, in, row, column) to the kept order, or back, less the base. */
static const float *conv_spread(const Conv *g, const float *flat, float *to) {
    const int k = g->kernel;
    for (int o = 0; o < g->out; o++)
        for (int c = 0; c < g->in; c++)
            for (int t = 0; t < k * k; t++)
                to[g->weight + (ptrdiff_t)o * g->row + t * g->step + c] = *flat++;
    if (g->biased) memcpy(to + g->bias, flat, 4 * (size_t)g->out), flat += g->out;
    return flat;
}

static void conv_gather(const Conv *g, const float *from, const float **base, float **delta) {
    const int k = g->kernel;
    for (int o = 0; o < g->out; o++)
        for (int c = 0; c < g->in; c++)
            for (int t = 0; t < k * k; t++)
                *(*delta)++ =
                    from[g->weight + (ptrdiff_t)o * g->row + t * g->step + c] - *(*base)++;
    for (int o = 0; g->biased && o < g->out; o++) *(*delta)++ = from[g->bias + o] - *(*base)++;
}

/* One example's channels, one plane after another, to one pixel after another. */
static void conv_input(const Conv *g, const float *planes, float *image) {
    const int wide = g->down / g->step - 2 * g->border, high = g->height - 2 * g->border;
    float *to = image + g->border * (g->down + g->step);
    for (int c = 0; c < g->in; c++)
        for (int y = 0; y < high; y++, planes += wide) {
            float *line = to + (ptrdiff_t)y * g->down + c;
            if (g->step == 1)
                memcpy(line, planes, 4 * (size_t)wide);
            else
                for (int x = 0; x < wide; x++) line[(ptrdiff_t)x * g->step] = planes[x];
        }
}

/* What each output pixel of the first convolution sees, as one row of `row` floats. */
static void conv_patches(const Conv *g, const float *image, float *to) {
    for (int y = 0; y < g->ph * g->pool; y++)
        for (int x = 0; x < g->w; x++, to += g->row) {
            const float *from = image + (ptrdiff_t)y * g->down + x * g->step;
            for (int k = 0; k < g->kernel; k++, from += g->down)
                for (int c = 0; c < g->run; c++) to[k * g->run + c] = from[c];
        }
}
