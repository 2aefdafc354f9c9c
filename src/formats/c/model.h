/* A language model, written by kinglet.
 *
 *     static kinglet k;
 *     kinglet_init(&k, 1337);
 *     kinglet_push(&k, id);                       for each id of a prompt
 *     uint32_t next = kinglet_draw(&k, 0.0);      as often as tokens are wanted
 *
 * Nothing is allocated: all state is in the struct. C99 and libm are enough.
 */
#ifndef KINGLET_MODEL_H
#define KINGLET_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*SIZES*/

/* A text that is being written. Its fields are the model's own. */
typedef struct kinglet {
    float keys[KINGLET_LAYERS][KINGLET_BLOCK_SIZE][KINGLET_KV_HEADS * KINGLET_HEAD_SIZE];
    float values[KINGLET_LAYERS][KINGLET_BLOCK_SIZE][KINGLET_KV_HEADS * KINGLET_HEAD_SIZE];
#if KINGLET_QKV_CONV
    float tail[KINGLET_LAYERS][KINGLET_QKV_CONV - 1][(KINGLET_HEADS + 2 * KINGLET_KV_HEADS) * KINGLET_HEAD_SIZE];
#endif
#if KINGLET_RES_CONV
    float res_tail[KINGLET_LAYERS][KINGLET_RES_CONV - 1][KINGLET_EMBD];
#endif
    float x[KINGLET_EMBD];
    float norm[KINGLET_EMBD];
    float qkv[(KINGLET_HEADS + 2 * KINGLET_KV_HEADS) * KINGLET_HEAD_SIZE];
    float rotation[KINGLET_HEAD_SIZE];
    float scores[KINGLET_BLOCK_SIZE];
    float att[KINGLET_HEADS * KINGLET_HEAD_SIZE];
    float fc[KINGLET_FC];
    float logits[KINGLET_VOCAB_SIZE];
    uint32_t window[KINGLET_BLOCK_SIZE]; /* the last tokens */
    uint32_t known;                      /* how many they are */
    uint32_t waiting;                    /* how many of them are not computed yet */
    uint32_t left;                       /* whether tokens have left the window */
    uint64_t position;                   /* positions computed since the first */
    uint64_t key, drawn;                 /* of the random numbers */
    unsigned char held[4];               /* bytes of an unfinished character */
    uint32_t held_count;
} kinglet;

/* Begins a text. The same seed draws the same random numbers as `kinglet sample --seed`. */
void kinglet_init(kinglet *k, uint64_t seed);

/* Adds a token; -1 if there is none with this id. */
int kinglet_push(kinglet *k, uint32_t id);

/* The logits (KINGLET_VOCAB_SIZE) of the token that comes next. */
const float *kinglet_logits(kinglet *k);

/* Draws the next token and adds it. Temperature 0 always takes the most probable one. */
uint32_t kinglet_draw(kinglet *k, double temperature);

#if KINGLET_TOKENS
/* The text that a token completes, with a zero behind it; returns its length. `text` has room for KINGLET_TEXT. */
size_t kinglet_decode(kinglet *k, uint32_t id, char *text);

/* The text of a character that was never finished, when no more tokens follow. */
size_t kinglet_finish(kinglet *k, char *text);
#endif

#if KINGLET_ENCODES
/* The ids of a text of `length` bytes; returns how many, or -1 - i if the character at byte i is unknown. `ids` has room for
 * `length`. */
long kinglet_encode(const char *text, size_t length, uint32_t *ids);
#endif

#ifdef __cplusplus
}
#endif

#endif
