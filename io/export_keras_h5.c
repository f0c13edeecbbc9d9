#include "io/export_keras_h5.h"

#include <hdf5.h>
#include <stdlib.h>

enum { GROWTH_BYTES = 1 << 20 }; /* by which the file in memory grows */

/* What is written and how it is made; every member is closed by close_file. */
struct h5_file {
    hid_t file, access;
    hid_t links; /* groups of a path are created on the way */
    hid_t plain; /* no times in the file: the same model gives the same bytes */
    hid_t string;
};

/* Where Keras looks for each weight. */
static const struct place {
    const char *path, *weight;
    bool transposed; /* a Keras kernel has the inputs first */
} places[] = {
    {"layers/embedding/vars/0", "embedding.weight", false},
    {"layers/bidirectional/forward_layer/cell/vars/0", "lstm.weight_ih_l0", true},
    {"layers/bidirectional/forward_layer/cell/vars/1", "lstm.weight_hh_l0", true},
    {"layers/bidirectional/forward_layer/cell/vars/2", "lstm.bias_l0", false},
    {"layers/bidirectional/backward_layer/cell/vars/0", "lstm.weight_ih_l0_reverse", true},
    {"layers/bidirectional/backward_layer/cell/vars/1", "lstm.weight_hh_l0_reverse", true},
    {"layers/bidirectional/backward_layer/cell/vars/2", "lstm.bias_l0_reverse", false},
    {"layers/dense/vars/0", "dense.weight", true},
    {"layers/dense/vars/1", "dense.bias", false},
    {"layers/dense_1/vars/0", "output.weight", true},
    {"layers/dense_1/vars/1", "output.bias", false},
};

/* Objects that have no weights of their own; early versions of Keras 3 ask for their `vars`. */
static const char *const empty_groups[] = {
    "vars",
    "layers/bidirectional/vars",
    "layers/bidirectional/forward_layer/vars",
    "layers/bidirectional/backward_layer/vars",
    "layers/text_vectorization/vars",
    "layers/text_vectorization/_lookup_layer/vars",
};

/* ---- the file ---- */

static bool open_file(struct h5_file *h5) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* the library would print */
    h5->access = H5Pcreate(H5P_FILE_ACCESS);
    h5->links = H5Pcreate(H5P_LINK_CREATE);
    h5->plain = H5Pcreate(H5P_DATASET_CREATE);
    h5->string = H5Tcopy(H5T_C_S1);
    h5->file = H5I_INVALID_HID;
    if (h5->access < 0 || H5Pset_fapl_core(h5->access, GROWTH_BYTES, false) < 0 || h5->links < 0 ||
        H5Pset_create_intermediate_group(h5->links, 1) < 0 || h5->plain < 0 ||
        H5Pset_obj_track_times(h5->plain, false) < 0 || h5->string < 0 ||
        H5Tset_size(h5->string, H5T_VARIABLE) < 0 || H5Tset_cset(h5->string, H5T_CSET_UTF8) < 0) {
        return false;
    }
    h5->file = H5Fcreate("in memory", H5F_ACC_TRUNC, H5P_DEFAULT, h5->access);
    return h5->file >= 0;
}

static void close_file(struct h5_file *h5) {
    if (h5->file >= 0) {
        H5Fclose(h5->file);
    }
    if (h5->string >= 0) {
        H5Tclose(h5->string);
    }
    hid_t lists[] = {h5->plain, h5->links, h5->access};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (lists[i] >= 0) {
            H5Pclose(lists[i]);
        }
    }
}

/* One array; rank 0 is one element. `type` is what the file says, `memory` what `data` holds. */
static bool write_array(const struct h5_file *h5, const char *path, hid_t type, hid_t memory,
                        uint32_t rank, const hsize_t *shape, const void *data) {
    hid_t space = rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple((int)rank, shape, NULL);
    hid_t set = space < 0
                    ? H5I_INVALID_HID
                    : H5Dcreate2(h5->file, path, type, space, h5->links, h5->plain, H5P_DEFAULT);
    bool written = set >= 0 && H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    if (set >= 0) {
        written = H5Dclose(set) >= 0 && written;
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    return written;
}

static bool make_group(const struct h5_file *h5, const char *path) {
    hid_t group = H5Gcreate2(h5->file, path, h5->links, H5P_DEFAULT, H5P_DEFAULT);
    return group >= 0 && H5Gclose(group) >= 0;
}

static bool append_image(const struct h5_file *h5, struct text *out) {
    if (H5Fflush(h5->file, H5F_SCOPE_GLOBAL) < 0) {
        return false;
    }
    ssize_t size = H5Fget_file_image(h5->file, NULL, 0);
    void *image = size > 0 ? malloc((size_t)size) : NULL;
    bool copied = image != NULL && H5Fget_file_image(h5->file, image, (size_t)size) == size;
    if (copied) {
        text_append(out, image, (size_t)size);
    }
    free(image);
    return copied && !out->failed;
}

/* ---- what is in it ---- */

static float *transpose(const float *from, uint64_t rows, uint64_t columns) {
    float *to = malloc(rows * columns * sizeof *to);
    for (uint64_t i = 0; to != NULL && i < rows; i++) {
        for (uint64_t k = 0; k < columns; k++) {
            to[k * rows + i] = from[i * columns + k];
        }
    }
    return to;
}

static bool write_weight(const struct h5_file *h5, const struct tensor_view *weight,
                         const struct place *place) {
    hsize_t shape[TENSOR_RANK_MAX] = {weight->shape[0], weight->shape[1]};
    if (!place->transposed) {
        return write_array(h5, place->path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, weight->rank, shape,
                           weight->data);
    }
    hsize_t turned[2] = {shape[1], shape[0]};
    float *kernel = transpose(weight->data, shape[0], shape[1]);
    bool written = kernel != NULL && write_array(h5, place->path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT,
                                                 2, turned, kernel);
    free(kernel);
    return written;
}

static bool write_strings(const struct h5_file *h5, const char *path, const char *const *strings,
                          uint64_t count) {
    hsize_t shape[1] = {count};
    return write_array(h5, path, h5->string, h5->string, 1, shape, strings);
}

static bool write_number(const struct h5_file *h5, const char *path, uint64_t number) {
    return write_array(h5, path, H5T_STD_I64LE, H5T_NATIVE_UINT64, 0, NULL, &number);
}

static bool write_all(const struct h5_file *h5, const struct export_model *model) {
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (!write_weight(h5, export_weight(model, places[i].weight), &places[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof empty_groups / sizeof empty_groups[0]; i++) {
        if (!make_group(h5, empty_groups[i])) {
            return false;
        }
    }
    return write_strings(h5, "cairn/vocabulary", model->tokens, model->vocabulary_size) &&
           write_strings(h5, "cairn/labels", model->label_names, 2) &&
           write_number(h5, "cairn/max_length", model->max_length) &&
           write_number(h5, "cairn/strip_html", model->strip_html) &&
           (!model->has_step || write_number(h5, "cairn/step", model->step));
}

enum status export_keras_h5(const struct export_model *model, struct text *out, struct error *err) {
    struct h5_file h5;
    bool done = open_file(&h5) && write_all(&h5, model) && append_image(&h5, out);
    close_file(&h5);
    CHECK(done, err, STATUS_MEMORY, "no memory for the model as an HDF5 file");
    return STATUS_OK;
}
