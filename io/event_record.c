#include "io/event_record.h"

#include <string.h>

/* A table of 16 entries, half a byte at a time. No library: Debian's one C library that offers this
 * polynomial is ISA-L, made for storage arrays and for two processor families; a summary has a few
 * hundred bytes. */
static const uint32_t crc_table[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

enum { LENGTH_BYTES = 8, CRC_BYTES = 4, FRAME_BYTES = LENGTH_BYTES + 2 * CRC_BYTES };

uint32_t event_record_crc(const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ crc_table[crc & 15];
        crc = crc >> 4 ^ crc_table[crc & 15];
    }
    return ~crc;
}

static uint32_t masked_crc(const void *bytes, size_t size) {
    uint32_t crc = event_record_crc(bytes, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void store_le(uint8_t *out, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t load_le(const uint8_t *in, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value |= (uint64_t)in[i] << (8 * i);
    }
    return value;
}

void event_record_append(struct text *out, const void *bytes, size_t size) {
    uint8_t head[LENGTH_BYTES + CRC_BYTES], tail[CRC_BYTES];
    store_le(head, size, LENGTH_BYTES);
    store_le(head + LENGTH_BYTES, masked_crc(head, LENGTH_BYTES), CRC_BYTES);
    store_le(tail, masked_crc(bytes, size), CRC_BYTES);
    text_append(out, head, sizeof head);
    text_append(out, bytes, size);
    text_append(out, tail, sizeof tail);
}

bool event_record_next(const uint8_t *file, size_t file_size, size_t *at,
                       struct event_record *out) {
    size_t left = file_size - *at;
    if (left < FRAME_BYTES) {
        return false;
    }
    const uint8_t *head = file + *at;
    uint64_t size = load_le(head, LENGTH_BYTES);
    if (size > left - FRAME_BYTES ||
        load_le(head + LENGTH_BYTES, CRC_BYTES) != masked_crc(head, LENGTH_BYTES)) {
        return false;
    }
    const uint8_t *bytes = head + LENGTH_BYTES + CRC_BYTES;
    if (load_le(bytes + size, CRC_BYTES) != masked_crc(bytes, (size_t)size)) {
        return false;
    }
    *out = (struct event_record){bytes, (size_t)size, *at, *at + FRAME_BYTES + (size_t)size};
    *at = out->end;
    return true;
}
