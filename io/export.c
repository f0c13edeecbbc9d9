#include "io/export.h"

#include <assert.h>

const struct tensor_view *export_weight(const struct export_model *model, const char *name) {
    const struct tensor_view *weight = tensor_find(model->weights, model->weight_count, name);
    assert(weight != NULL);
    return weight;
}

enum status export_begin(const struct file_table *files, const char *path, struct publish *publish,
                         struct error *err) {
    if (publish_begin(files, path, publish, err) == STATUS_OK) {
        return STATUS_OK;
    }
    if (err != NULL) {
        err->status = STATUS_OUTPUT;
    }
    return STATUS_OUTPUT;
}

enum status export_publish(const struct file_table *files, const char *path, const void *bytes,
                           size_t size, struct error *err) {
    struct publish publish;
    TRY(export_begin(files, path, &publish, err));
    enum status status = publish_write(&publish, bytes, size, err);
    if (status != STATUS_OK) {
        publish_abort(&publish);
        return status;
    }
    return publish_commit(&publish, err);
}
