/* event_record.h - the framing of TensorBoard's event files (TFRecord).
 *
 * One record, all numbers little-endian:
 *     uint64 length | uint32 crc of these 8 bytes | `length` bytes | uint32 crc of those bytes
 * crc is a masked CRC-32C: rotated right by 15 bits, plus 0xa282ead8, so that the checksum of data
 * that hold checksums stays a good one.
 *
 * Usage:
 *     event_record_append(&out, message, size);
 *     while (event_record_next(bytes, size, &at, &record)) { read record.bytes }
 *
 * THREADS: pure functions.
 */
#ifndef CAIRN_IO_EVENT_RECORD_H
#define CAIRN_IO_EVENT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* CRC-32C (Castagnoli, as in iSCSI), not masked. */
uint32_t event_record_crc(const void *bytes, size_t size);

/* Append one framed record. `out->failed` when memory runs out. */
void event_record_append(struct text *out, const void *bytes, size_t size);

/* A record inside a file that was read: [begin, end) with its frame, `bytes` without. */
struct event_record {
    const uint8_t *bytes;
    size_t size, begin, end;
};

/* The record that begins at *at; then *at is behind it. False at the end, at a torn record, and at
 * one whose checksum is wrong; *at stays. */
bool event_record_next(const uint8_t *file, size_t file_size, size_t *at, struct event_record *out);

#ifdef __cplusplus
}
#endif
#endif
