/* Text: tokens to UTF-8, and back. */

/* One more byte of the text. What is not UTF-8 becomes U+FFFD, one for each part that could have begun a character. */
static size_t put(kinglet *k, unsigned char byte, char *text)
{
    size_t n = 0, i;
    if (k->held_count > 0) {
        unsigned char first = k->held[0], low = 0x80, high = 0xBF;
        unsigned length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
        if (k->held_count == 1) {
            low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : low;
            high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : high;
        }
        if (byte >= low && byte <= high) {
            k->held[k->held_count++] = byte;
            if (k->held_count == length) {
                for (i = 0; i < length; i++)
                    text[n++] = (char)k->held[i];
                k->held_count = 0;
            }
            return n;
        }
        n = kinglet_finish(k, text);
    }
    if (byte < 0x80) {
        text[n++] = (char)byte;
    } else if (byte >= 0xC2 && byte <= 0xF4) {
        k->held[0] = byte;
        k->held_count = 1;
    } else {
        memcpy(text + n, "\xEF\xBF\xBD", 3);
        n += 3;
    }
    return n;
}

size_t kinglet_decode(kinglet *k, uint32_t id, char *text)
{
    size_t n = 0, i;
    if (id < KINGLET_TOKENS)
        for (i = token_at[id]; i < token_at[id + 1]; i++)
            n += put(k, token_bytes[i], text + n);
    text[n] = 0;
    return n;
}

size_t kinglet_finish(kinglet *k, char *text)
{
    size_t n = k->held_count > 0 ? 3 : 0;
    memcpy(text, "\xEF\xBF\xBD", n);
    k->held_count = 0;
    text[n] = 0;
    return n;
}

#if KINGLET_ENCODES
#if KINGLET_CHARS || defined(KINGLET_SPECIAL)
/* The bytes of a token. */
static size_t token_length(uint32_t id)
{
    return token_at[id + 1] - token_at[id];
}

/* Whether a text begins with a token. */
static int begins_with(const unsigned char *text, size_t length, uint32_t id)
{
    size_t n = token_length(id);
    return n > 0 && n <= length && memcmp(text, token_bytes + token_at[id], n) == 0;
}

#endif

/* Whether a text begins with a token that is not text, as it is written. */
static int is_special(const unsigned char *text, size_t length)
{
#ifdef KINGLET_SPECIAL
    return begins_with(text, length, KINGLET_SPECIAL);
#else
    (void)text;
    (void)length;
    return 0;
#endif
}

#if KINGLET_WORDS
enum { OTHER, LETTER, NUMBER, BLANK };

/* What kind of character a text begins with, and its length in bytes. */
static int class_of(const unsigned char *text, size_t length, size_t *bytes)
{
    uint32_t c = text[0], low = 0, high = sizeof class_from / sizeof *class_from;
    size_t n = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4, i;
    if (n > length)
        n = 1;
    if (n > 1)
        c &= 0x7Fu >> n;
    for (i = 1; i < n; i++)
        c = c << 6 | (text[i] & 0x3Fu);
    *bytes = n;
    /* The last range that begins at c or before. */
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (class_from[middle] <= c)
            low = middle;
        else
            high = middle;
    }
    return class_is[low];
}

/* The length of the first of GPT-2's words: letters, numbers, or signs, each with a blank before it; or blanks. */
static size_t first_word(const unsigned char *text, size_t length)
{
    static const char *const ends[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    size_t bytes, end, last = 0, i;
    int class, next;
    for (i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (n <= length && memcmp(text, ends[i], n) == 0)
            return n;
    }
    class = class_of(text, length, &bytes);
    end = bytes;
    if (text[0] == ' ' && end < length) {
        next = class_of(text + end, length - end, &bytes);
        if (next != BLANK) {
            class = next;
            last = end;
            end += bytes;
        }
    }
    while (end < length && class_of(text + end, length - end, &bytes) == class) {
        last = end;
        end += bytes;
    }
    /* The last of several blanks belongs to the word behind them. */
    return class == BLANK && end < length && last > 0 ? last : end;
}

/* The merge of two tokens, or none. */
static const struct merge *find_merge(uint32_t a, uint32_t b)
{
    size_t low = 0, high = KINGLET_MERGES;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct merge *m = &merges[middle];
        if (m->a == a && m->b == b)
            return m;
        if (m->a < a || (m->a == a && m->b < b))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* Merges the tokens of a word, the earliest learned pair first. */
static size_t merge_word(uint32_t *ids, size_t n)
{
    for (;;) {
        const struct merge *best = 0;
        size_t at = 0, i;
        for (i = 0; i + 1 < n; i++) {
            const struct merge *m = find_merge(ids[i], ids[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            return n;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}
#endif

long kinglet_encode(const char *input, size_t length, uint32_t *ids)
{
    const unsigned char *text = (const unsigned char *)input;
    size_t at = 0, n = 0;
    while (at < length) {
        size_t end = at;
        if (is_special(text + at, length - at)) {
#ifdef KINGLET_SPECIAL
            at += token_length(KINGLET_SPECIAL);
            ids[n++] = KINGLET_SPECIAL;
#endif
            continue;
        }
        while (end < length && !is_special(text + end, length - end))
            end++;
#if KINGLET_CHARS
        while (at < end) {
            uint32_t id = 0;
            while (id < KINGLET_TOKENS && !begins_with(text + at, end - at, id))
                id++;
            if (id == KINGLET_TOKENS)
                return -1 - (long)at;
            at += token_length(id);
            ids[n++] = id;
        }
#elif KINGLET_WORDS
        while (at < end) {
            size_t word = first_word(text + at, end - at), i;
            for (i = 0; i < word; i++)
                ids[n + i] = byte_ids[text[at + i]];
            n += merge_word(ids + n, word);
            at += word;
        }
#else
        while (at < end)
            ids[n++] = text[at++];
#endif
    }
    return (long)n;
}
#endif
