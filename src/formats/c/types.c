/* A language model, written by kinglet. See model.h for how it is used. */

#include "model.h"

#include <math.h>
#include <string.h>

#if KINGLET_INT8
typedef int8_t weight;
#elif KINGLET_INT4
/* Two of them: 8 more than each, the first in the low half. */
typedef uint8_t weight;
#else
typedef float weight;
#endif

/* y (out) = W x + b with W (out, in). In eight bits, each row has a scale; in four, each GROUP of a row. */
struct linear {
    const weight *weight;
#if KINGLET_INT8 || KINGLET_INT4
    const float *scale;
#endif
    const float *bias; /* or none */
    size_t in, out;
};

struct block {
    const float *res_conv, *ln_1, *ln_1_bias, *conv, *q_norm, *k_norm, *ln_2, *ln_2_bias;
    struct linear c_attn, attn_proj, c_fc, mlp_proj;
};

#if KINGLET_WORDS
struct merge {
    uint32_t a, b, rank, id;
};
#endif

