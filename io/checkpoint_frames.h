/* checkpoint_frames.h - a checkpoint's content as zstd frames, made on one thread or on several.
 *
 *     tensors: pieces of CHECKPOINT_FRAME_BYTES -> any lane: gather, compress or store -> a slot
 *     slots, in the order of the content -> the calling thread: take()
 *
 * A frame depends on its piece alone, so the bytes do not depend on the number of threads. There
 * are few slots: lanes wait for the taker, so memory stays the same however large the content is.
 *
 * Below level 3 (0 is 3) a piece that would shrink by less than an eighth is stored: a valid zstd
 * frame of raw blocks, which every zstd reader copies instead of decoding. Trained floating-point
 * numbers are such pieces: entropy coding takes most of the processor time of a save, and of a
 * restart, for about a fourteenth of their size. Whoever asks for level 3 or more asks for the smaller file.
 *
 * Private to io/checkpoint_encode.c.
 * THREADS: one at a time calls; it is lane 0, the others live for the call.
 */
#ifndef CAIRN_IO_CHECKPOINT_FRAMES_H
#define CAIRN_IO_CHECKPOINT_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct checkpoint_frames;

/* One finished frame; valid during the call that gets it. */
struct checkpoint_frame {
    const uint8_t *bytes;
    size_t size;
    size_t content_bytes;
    uint32_t checksum; /* of the content: low half of XXH64, the last four bytes of the frame */
};

/* `level`: zstd's, -7 to 19. `threads`: from 1, the caller included. Allocates all that making
 * frames needs. */
MUST_USE enum status checkpoint_frames_create(int level, unsigned threads,
                                              struct checkpoint_frames **out, struct error *err);
void checkpoint_frames_free(struct checkpoint_frames *frames);

/* A frame of its own of up to CHECKPOINT_FRAME_BYTES. `out` is valid until the next call. */
MUST_USE enum status checkpoint_frames_make(struct checkpoint_frames *frames, const void *content,
                                            size_t size, struct checkpoint_frame *out,
                                            struct error *err);

/* Where frames go. A failure ends the run and is returned by it. */
typedef enum status (*checkpoint_take)(void *context, const struct checkpoint_frame *frame,
                                       struct error *err);

/* The bytes of all tensors, one after the other, as frames in order. Blocking. */
MUST_USE enum status checkpoint_frames_run(struct checkpoint_frames *frames,
                                           const struct tensor_view *tensors, size_t tensor_count,
                                           checkpoint_take take, void *context, struct error *err);

/* Processor time that lanes other than the caller's used since the last call of this. */
double checkpoint_frames_cpu_seconds(struct checkpoint_frames *frames);

unsigned checkpoint_frames_threads(const struct checkpoint_frames *frames);

#ifdef __cplusplus
}
#endif
#endif
