// checkpoint_edit.h - look into a checkpoint file, and write one that says something else: a file
// that is whole in every byte, by the program's own encoder, but whose content was tampered with.
//
//     rewrite_checkpoint(path, path, [](Tensors *tensors) { set_count(tensors, "state.step", 9); });
//     EXPECT_EQ(checkpoint_count(path, "state.phase"), 1);
#ifndef CAIRN_TESTS_SUPPORT_CHECKPOINT_EDIT_H
#define CAIRN_TESTS_SUPPORT_CHECKPOINT_EDIT_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "host/base/tensor.h"

using Tensors = std::vector<struct tensor_view>;

// Read a checkpoint, let `change` alter its tensors, write it to `to`.
void rewrite_checkpoint(const std::string &from, const std::string &to,
                        const std::function<void(Tensors *)> &change);

// Of an I64 tensor of one value; the test fails when it is missing.
void set_count(Tensors *tensors, const std::string &name, int64_t value);

// The value of such a tensor in a file; INT64_MIN and a failure when it cannot be read.
int64_t checkpoint_count(const std::string &path, const std::string &name);
// The first axis of a tensor's shape; INT64_MIN and a failure when it cannot be read.
int64_t checkpoint_rows(const std::string &path, const std::string &name);

#endif
