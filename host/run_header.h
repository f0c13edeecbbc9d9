/* run_header.h - what a run says about itself before it starts: model, data, device, checkpoints,
 * resume.
 *
 * THREADS: main thread. Writes through progress_message (stderr).
 */
#ifndef CAIRN_HOST_RUN_HEADER_H
#define CAIRN_HOST_RUN_HEADER_H

#include "host/corpus.h"
#include "host/options.h"
#include "host/progress.h"
#include "host/resume.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Layers, shapes and parameters of the model (Keras' model.summary). */
void run_header_model(struct progress *progress, const struct model_shape *shape);

/* Everything else. `vocabulary_entries` is V. */
void run_header_print(struct progress *progress, const struct options *options,
                      const struct corpora *corpora, uint32_t vocabulary_entries,
                      const struct backend *be, const struct resume *resume);

#ifdef __cplusplus
}
#endif
#endif
