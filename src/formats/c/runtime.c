/* The model: one token at a time, with the keys and values of those before it. */

#define ATT (KINGLET_HEADS * KINGLET_HEAD_SIZE)
#define KV (KINGLET_KV_HEADS * KINGLET_HEAD_SIZE)

/* The sum of a[i] b[i], in eight sums that are added in a fixed order. */
static float dot(const float *a, const float *b, size_t n)
{
    float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    size_t i, lane;
    for (i = 0; i + 8 <= n; i += 8)
        for (lane = 0; lane < 8; lane++)
            s[lane] += a[i + lane] * b[i + lane];
    for (lane = 0; i < n; i++, lane++)
        s[lane] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

#if KINGLET_INT8
/* The same where a is signed bytes. */
static float dot_int8(const int8_t *a, const float *b, size_t n)
{
    float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    size_t i, lane;
    for (i = 0; i + 8 <= n; i += 8)
        for (lane = 0; lane < 8; lane++)
            s[lane] += (float)a[i + lane] * b[i + lane];
    for (lane = 0; i < n; i++, lane++)
        s[lane] += (float)a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}
#endif

#if KINGLET_INT4
/* Neighbours in a row that share a scale. */
#define GROUP 32

/* The same where a is two numbers to a byte, with a scale for each group of them. */
static float dot_int4(const uint8_t *a, const float *scale, const float *b, size_t n)
{
    float sum = 0;
    size_t start, i;
    for (start = 0; start < n; start += GROUP) {
        float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        size_t end = n - start < GROUP ? n : start + GROUP;
        for (i = start; i < end; i++) {
            int code = (i & 1 ? a[i / 2] >> 4 : a[i / 2] & 15) - 8;
            s[i & 7] += (float)code * b[i];
        }
        sum += (((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))) * scale[start / GROUP];
    }
    return sum;
}
#endif

/* y = W x + b, or y += W x + b. */
static void linear(float *y, const float *x, const struct linear *w, int add)
{
    size_t o;
    for (o = 0; o < w->out; o++) {
#if KINGLET_INT8
        float sum = dot_int8(w->weight + o * w->in, x, w->in) * w->scale[o];
#elif KINGLET_INT4
        size_t bytes = (w->in + 1) / 2, groups = (w->in + GROUP - 1) / GROUP;
        float sum = dot_int4(w->weight + o * bytes, w->scale + o * groups, x, w->in);
#else
        float sum = dot(w->weight + o * w->in, x, w->in);
#endif
        if (w->bias)
            sum += w->bias[o];
        y[o] = add ? y[o] + sum : sum;
    }
}

#if KINGLET_RMSNORM || KINGLET_QK_NORM
/* y = x / sqrt(mean(x^2) + eps) w */
static void rms_norm(float *y, const float *x, const float *w, size_t n)
{
    float factor = 1.0f / sqrtf(dot(x, x, n) / (float)n + KINGLET_EPS);
    size_t i;
    for (i = 0; i < n; i++)
        y[i] = x[i] * factor * w[i];
}
#endif

/* A norm of all channels. */
static void norm(float *y, const float *x, const float *w, const float *b)
{
#if KINGLET_RMSNORM
    (void)b;
    rms_norm(y, x, w, KINGLET_EMBD);
#else
    float mean = 0, factor;
    size_t i;
    for (i = 0; i < KINGLET_EMBD; i++)
        mean += x[i];
    mean /= KINGLET_EMBD;
    for (i = 0; i < KINGLET_EMBD; i++)
        y[i] = x[i] - mean;
    factor = 1.0f / sqrtf(dot(y, y, KINGLET_EMBD) / KINGLET_EMBD + KINGLET_EPS);
    for (i = 0; i < KINGLET_EMBD; i++)
        y[i] = y[i] * factor * w[i] + (b ? b[i] : 0);
#endif
}

#if KINGLET_ROTARY
/* Rotates the two halves of a head into each other. */
static void rotate(float *x, const float *rotation)
{
    size_t half = KINGLET_HEAD_SIZE / 2, i;
    for (i = 0; i < half; i++) {
        float c = rotation[i], s = rotation[half + i], a = x[i], b = x[half + i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}
#endif

#if KINGLET_QKV_CONV || KINGLET_RES_CONV
/* x of this position with those of the kept ones before it (tail), channel by channel; the last tap is its own. */
static void convolve(const kinglet *k, float *x, size_t channels, const float *taps, size_t kept, float *tail)
{
    size_t i, j;
    for (i = 0; i < channels; i++, taps += kept + 1) {
        float own = x[i], sum = taps[kept] * own;
        for (j = 1; j <= kept && j <= k->position; j++)
            sum += taps[kept - j] * tail[(k->position - j) % kept * channels + i];
        tail[k->position % kept * channels + i] = own;
        x[i] = sum;
    }
}
#endif

/* From k->norm to k->att, for the newest position. */
static void attention(kinglet *k, size_t layer)
{
    const struct block *w = &blocks[layer];
    size_t block = KINGLET_BLOCK_SIZE, hs = KINGLET_HEAD_SIZE, slot = (size_t)(k->position % block), h, i, j, seen;
    size_t first;
    linear(k->qkv, k->norm, &w->c_attn, 0);
#if KINGLET_QKV_CONV
    convolve(k, k->qkv, ATT + 2 * KV, w->conv, KINGLET_QKV_CONV - 1, k->tail[layer][0]);
#endif
#if KINGLET_QK_NORM
    for (h = 0; h < KINGLET_HEADS + KINGLET_KV_HEADS; h++)
        rms_norm(k->qkv + h * hs, k->qkv + h * hs, h < KINGLET_HEADS ? w->q_norm : w->k_norm, hs);
#endif
#if KINGLET_ROTARY
    for (h = 0; h < KINGLET_HEADS + KINGLET_KV_HEADS; h++)
        rotate(k->qkv + h * hs, k->rotation);
#endif
    for (i = 0; i < KV; i++) {
        k->keys[layer][slot][i] = k->qkv[ATT + i];
        k->values[layer][slot][i] = k->qkv[ATT + KV + i];
    }
    seen = k->position < block ? (size_t)k->position + 1 : block;
    first = (slot + block + 1 - seen) % block;
    for (h = 0; h < KINGLET_HEADS; h++) {
        size_t shared = h / (KINGLET_HEADS / KINGLET_KV_HEADS) * hs;
        float top = 0, sum = 0;
        for (j = 0; j < seen; j++) {
            float score = dot(k->qkv + h * hs, k->keys[layer][(first + j) % block] + shared, hs) * KINGLET_SCALE;
            k->scores[j] = score;
            top = j == 0 || score > top ? score : top;
        }
        for (j = 0; j < seen; j++) {
            k->scores[j] = expf(k->scores[j] - top);
            sum += k->scores[j];
        }
        for (i = 0; i < hs; i++)
            k->att[h * hs + i] = 0;
        for (j = 0; j < seen; j++) {
            const float *value = k->values[layer][(first + j) % block] + shared;
            float weight = k->scores[j] / sum;
            for (i = 0; i < hs; i++)
                k->att[h * hs + i] += weight * value[i];
        }
    }
}

/* The activation of k->fc, in place. */
static void activate(kinglet *k)
{
    float *x = k->fc;
    size_t i;
    for (i = 0; i < KINGLET_INNER; i++) {
#if KINGLET_ACTIVATION == KINGLET_RELU
        x[i] = x[i] > 0 ? x[i] : 0;
#elif KINGLET_ACTIVATION == KINGLET_RELU_SQUARED
        x[i] = x[i] > 0 ? x[i] * x[i] : 0;
#elif KINGLET_ACTIVATION == KINGLET_GELU
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
#elif KINGLET_ACTIVATION == KINGLET_GELU_TANH
        x[i] = 0.5f * x[i] * (1.0f + tanhf(0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
#else
        x[i] = x[i] / (1.0f + expf(-x[i])) * x[KINGLET_INNER + i];
#endif
    }
}

/* Computes one position; its logits only if it is the last of those that wait. */
static void step(kinglet *k, uint32_t id, int last)
{
    size_t i, l;
    for (i = 0; i < KINGLET_EMBD; i++)
        k->x[i] = wte[(size_t)id * KINGLET_EMBD + i];
#if KINGLET_ROTARY
    for (i = 0; i < KINGLET_HEAD_SIZE / 2; i++) {
        double angle = (double)k->position * frequencies[i];
        k->rotation[i] = (float)cos(angle);
        k->rotation[KINGLET_HEAD_SIZE / 2 + i] = (float)sin(angle);
    }
#else
    for (i = 0; i < KINGLET_EMBD; i++)
        k->x[i] += wpe[(size_t)k->position * KINGLET_EMBD + i];
#endif
    for (l = 0; l < KINGLET_LAYERS; l++) {
        const struct block *w = &blocks[l];
#if KINGLET_RES_CONV
        convolve(k, k->x, KINGLET_EMBD, w->res_conv, KINGLET_RES_CONV - 1, k->res_tail[l][0]);
#endif
        norm(k->norm, k->x, w->ln_1, w->ln_1_bias);
        attention(k, l);
        if (!last && l + 1 == KINGLET_LAYERS)
            break;
        linear(k->x, k->att, &w->attn_proj, 1);
        norm(k->norm, k->x, w->ln_2, w->ln_2_bias);
        linear(k->fc, k->norm, &w->c_fc, 0);
        activate(k);
        linear(k->x, k->fc, &w->mlp_proj, 1);
    }
    k->position++;
    if (!last)
        return;
    norm(k->norm, k->x, ln_f, ln_f_bias);
    for (i = 0; i < KINGLET_VOCAB_SIZE; i++) {
        k->logits[i] = dot(lm_head + i * KINGLET_EMBD, k->norm, KINGLET_EMBD) + (lm_head_bias ? lm_head_bias[i] : 0);
#if KINGLET_SOFTCAP
        k->logits[i] = KINGLET_CAP * tanhf(k->logits[i] / KINGLET_CAP);
#endif
    }
}

/* Whether an id is no token, and never drawn; `next` walks through those that are not. */
static int is_barred(uint32_t id, size_t *next)
{
#if BARRED
    if (*next < BARRED && barred[*next] == id) {
        ++*next;
        return 1;
    }
#else
    (void)id;
    (void)next;
#endif
    return 0;
}

/* A random word: SplitMix64, addressed by key and index. */
static uint64_t random_word(uint64_t key, uint64_t index)
{
    uint64_t z = key + (index + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

void kinglet_init(kinglet *k, uint64_t seed)
{
    memset(k, 0, sizeof *k);
    /* The stream that kinglet draws its first sample from: mix(seed), then purpose, step and sequence. */
    k->key = random_word(seed - UINT64_C(0x9E3779B97F4A7C15), 0);
    k->key = random_word(random_word(random_word(k->key, 6), 0), 0);
}

int kinglet_push(kinglet *k, uint32_t id)
{
    if (id >= KINGLET_VOCAB_SIZE)
        return -1;
#ifdef KINGLET_PARTING
    /* A new document sees nothing of the one before. */
    if (id == KINGLET_PARTING) {
        k->known = k->waiting = k->left = 0;
        k->position = 0;
    }
#endif
    if (k->known == KINGLET_BLOCK_SIZE) {
        memmove(k->window, k->window + 1, (KINGLET_BLOCK_SIZE - 1) * sizeof *k->window);
        k->left = 1;
    } else {
        k->known++;
    }
    k->window[k->known - 1] = id;
    if (k->waiting <= KINGLET_BLOCK_SIZE)
        k->waiting++;
    return 0;
}

const float *kinglet_logits(kinglet *k)
{
    if (k->known == 0)
        kinglet_push(k, KINGLET_START);
    if (k->waiting == 0)
        return k->logits;
    /* Learned positions shift with the window: all of it is computed again. A rotary window slides. */
    if ((k->left && !KINGLET_ROTARY) || k->waiting > k->known || k->position == 0) {
        k->position = 0;
        k->waiting = k->known;
    }
    while (k->waiting > 0) {
        step(k, k->window[k->known - k->waiting], k->waiting == 1);
        k->waiting--;
    }
    return k->logits;
}

uint32_t kinglet_draw(kinglet *k, double temperature)
{
    const float *z = kinglet_logits(k);
    uint32_t id, best = KINGLET_VOCAB_SIZE, chosen;
    double sum = 0, left;
    size_t next = 0;
    for (id = 0; id < KINGLET_VOCAB_SIZE; id++) {
        if (is_barred(id, &next))
            continue;
        if (best == KINGLET_VOCAB_SIZE || z[id] > z[best])
            best = id;
    }
    chosen = best;
    if (temperature > 0) {
        for (id = 0, next = 0; id < KINGLET_VOCAB_SIZE; id++)
            if (!is_barred(id, &next))
                sum += exp((double)(z[id] - z[best]) / temperature);
        left = (double)(random_word(k->key, k->drawn++) >> 11) / 9007199254740992.0 * sum;
        for (id = 0, next = 0; id < KINGLET_VOCAB_SIZE && left >= 0; id++) {
            if (is_barred(id, &next))
                continue;
            chosen = id;
            left -= exp((double)(z[id] - z[best]) / temperature);
        }
    }
    kinglet_push(k, chosen);
    return chosen;
}
