/* event_internal.h - what the files of event_file.h share. Private to them.
 *
 * THREADS: as event_file.h.
 */
#ifndef CAIRN_IO_EVENT_INTERNAL_H
#define CAIRN_IO_EVENT_INTERNAL_H

#include "host/base/text.h"
#include "io/event_file.h"
#include "io/tensorboard.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EVENT_NAME_PREFIX "events.out.tfevents."
#define EVENT_WRITER "cairn" /* in the first record of each of our files */

/* Grows by appending what protobuf-c packs. */
struct event_buffer {
    ProtobufCBuffer base; /* first */
    struct text text;
};
void event_buffer_init(struct event_buffer *buffer);

/* Stamp the event, frame it, buffer it. */
void event_file_add(struct event_file *file, Tb__Event *event);

/* Out of memory: the next flush fails. */
void event_file_fail(struct event_file *file);

#ifdef __cplusplus
}
#endif
#endif
