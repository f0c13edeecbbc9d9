// cuBLAS: products of fp32 matrices, computed when the stream gets there. Every element is a sum in
// ascending k, whatever the shape, so that results repeat. A product overwrites the beginning of its
// handle's workspace, so that two streams that share one show.
#include <cublas_v2.h>

#include <algorithm>

#include "tests/simcuda/sim_internal.h"

struct cublasContext {
    cudaStream_t stream = nullptr;
    void *workspace = nullptr;
    size_t workspace_bytes = 0;
    cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
    bool destroyed = false;
};

namespace simcuda {

namespace {

std::vector<std::unique_ptr<cublasContext>> handles;
constexpr size_t WORKSPACE_TOUCHED = 64; // bytes

struct Matrix {
    const float *data;
    int rows, columns, leading; // as stored, column-major
    bool transposed;
    float at(int row, int column) const {
        return transposed ? data[column + static_cast<ptrdiff_t>(row) * leading]
                          : data[row + static_cast<ptrdiff_t>(column) * leading];
    }
    size_t bytes() const {
        return rows == 0 || columns == 0
                   ? 0
                   : (static_cast<size_t>(leading) * static_cast<size_t>(columns - 1) +
                      static_cast<size_t>(rows)) *
                         sizeof(float);
    }
};

struct Product {
    Matrix a, b;
    float *c;
    int m, n, k, ldc;
    const float *alpha_device, *beta_device; // NULL: the values below
    float alpha, beta;
    void *workspace;
    size_t workspace_bytes;
    Matrix out() const { return {c, m, n, ldc, false}; }
};

// A few columns of C at a time.
class ProductWork : public Work {
  public:
    explicit ProductWork(const Product &product) : p_(product) {}
    bool step() override {
        if (next_ == 0) {
            begin();
        }
        const int end = std::min(p_.n, next_ + 1 + static_cast<int>(state.random.below(64)));
        for (; next_ < end; next_++) {
            column(next_);
        }
        return next_ == p_.n;
    }

  private:
    void begin() {
        if (p_.alpha_device != nullptr) {
            p_.alpha = *p_.alpha_device;
            p_.beta = *p_.beta_device;
        }
        poison_words(p_.workspace, p_.workspace_bytes);
        a_.resize(static_cast<size_t>(p_.m) * static_cast<size_t>(p_.k));
        for (int k = 0; k < p_.k; k++) {
            for (int i = 0; i < p_.m; i++) {
                a_[static_cast<size_t>(k) * static_cast<size_t>(p_.m) + static_cast<size_t>(i)] =
                    p_.a.at(i, k);
            }
        }
    }
    void column(int j) {
        std::vector<float> sum(static_cast<size_t>(p_.m), 0.0f);
        for (int k = 0; k < p_.k; k++) {
            const float b = p_.b.at(k, j);
            const float *a = a_.data() + static_cast<size_t>(k) * static_cast<size_t>(p_.m);
            for (size_t i = 0; i < sum.size(); i++) {
                sum[i] += a[i] * b;
            }
        }
        float *c = p_.c + static_cast<ptrdiff_t>(j) * p_.ldc;
        for (size_t i = 0; i < sum.size(); i++) {
            // What C held is not read when beta is 0, as in BLAS: it may be NaN.
            c[i] = p_.alpha * sum[i] + (p_.beta == 0.0f ? 0.0f : p_.beta * c[i]);
        }
    }

    Product p_;
    std::vector<float> a_; // [k][m]
    int next_ = 0;
};

cublasContext *find_handle(cublasHandle_t handle) {
    for (const auto &each : handles) {
        if (each.get() == handle && !each->destroyed) {
            return handle;
        }
    }
    report("handle", "a cuBLAS handle that does not exist, or no longer");
    return nullptr;
}

bool reaches(const void *p, size_t bytes, const char *what) {
    if (bytes == 0 || find_allocation(p, bytes) != nullptr) {
        return true;
    }
    report("product", format("%s of %zu bytes at %s", what, bytes,
                             describe_address(reinterpret_cast<uintptr_t>(p)).c_str()));
    return false;
}

void add_range(std::vector<Range> *ranges, const void *p, size_t bytes, bool write) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
    if (bytes > 0) {
        ranges->push_back({begin, begin + bytes, write});
    }
}

cublasStatus_t enqueue_product(cublasContext *handle, const Product &p) {
    if (!reaches(p.a.data, p.a.bytes(), "A") || !reaches(p.b.data, p.b.bytes(), "B") ||
        !reaches(p.c, p.out().bytes(), "C")) {
        fail_device(cudaErrorIllegalAddress);
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    CUstream_st *stream = find_stream(handle->stream);
    if (stream == nullptr || usable() != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    Operation operation;
    operation.name = format("product (m %d, n %d, k %d)", p.m, p.n, p.k);
    operation.make = [p] { return std::make_unique<ProductWork>(p); };
    add_range(&operation.ranges, p.a.data, p.a.bytes(), false);
    add_range(&operation.ranges, p.b.data, p.b.bytes(), false);
    add_range(&operation.ranges, p.c, p.out().bytes(), true);
    add_range(&operation.ranges, p.workspace, p.workspace_bytes, true);
    const cudaError_t error = enqueue(stream, std::move(operation));
    poll();
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // namespace

void list_blas(std::vector<std::string> *out) {
    for (size_t i = 0; i < handles.size(); i++) {
        if (!handles[i]->destroyed) {
            out->push_back(format("cuBLAS handle %zu", i));
        }
    }
}

void forget_blas() {
    handles.clear();
}

} // namespace simcuda

using namespace simcuda;

// ---- handles ----

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    Entered entered;
    if (usable() != cudaSuccess || refuse_unsafe_in_capture() != cudaSuccess) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handles.push_back(std::make_unique<cublasContext>());
    *handle = handles.back().get();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    Entered entered;
    if (find_handle(handle) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->destroyed = true;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) {
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}

// The workspace of before is no longer used then, as with cuBLAS.
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    Entered entered;
    if (find_handle(handle) == nullptr || find_stream(stream) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->stream = stream;
    handle->workspace = nullptr;
    handle->workspace_bytes = 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    Entered entered;
    if (find_handle(handle) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (!reaches(workspace, bytes, "workspace") || reinterpret_cast<uintptr_t>(workspace) % 256) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    handle->workspace = workspace;
    handle->workspace_bytes = std::min(bytes, WORKSPACE_TOUCHED);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    Entered entered;
    if (find_handle(handle) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->pointer_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    Entered entered;
    if (find_handle(handle) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    return mode == CUBLAS_DEFAULT_MATH || mode == CUBLAS_PEDANTIC_MATH
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

const char *cublasGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "<unknown>";
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an invalid value was used as an argument";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "an absent device architectural feature is required";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "an access to GPU memory space failed";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "an internal operation failed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality is not supported";
    }
    return "unknown status";
}

// ---- products ----

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa,
                              cublasOperation_t transb, int m, int n, int k, const float *alpha,
                              const float *A, int lda, const float *B, int ldb, const float *beta,
                              float *C, int ldc) {
    Entered entered;
    if (find_handle(handle) == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (usable() != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    const bool ta = transa != CUBLAS_OP_N;
    const bool tb = transb != CUBLAS_OP_N;
    if (m < 0 || n < 0 || k < 0 || lda < std::max(1, ta ? k : m) || ldb < std::max(1, tb ? n : k) ||
        ldc < std::max(1, m) || alpha == nullptr || beta == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (m == 0 || n == 0) {
        return CUBLAS_STATUS_SUCCESS;
    }
    Product p{};
    p.a = {A, ta ? k : m, ta ? m : k, lda, ta};
    p.b = {B, tb ? n : k, tb ? k : n, ldb, tb};
    p.c = C;
    p.m = m;
    p.n = n;
    p.k = k;
    p.ldc = ldc;
    p.workspace = handle->workspace;
    p.workspace_bytes = handle->workspace_bytes;
    if (handle->pointer_mode == CUBLAS_POINTER_MODE_DEVICE) {
        if (!reaches(alpha, sizeof(float), "alpha") || !reaches(beta, sizeof(float), "beta")) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
        p.alpha_device = alpha;
        p.beta_device = beta;
    } else {
        p.alpha = *alpha;
        p.beta = *beta;
    }
    return enqueue_product(handle, p);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa,
                            cublasOperation_t transb, int m, int n, int k, const void *alpha,
                            const void *A, cudaDataType Atype, int lda, const void *B,
                            cudaDataType Btype, int ldb, const void *beta, void *C,
                            cudaDataType Ctype, int ldc, cublasComputeType_t computeType,
                            cublasGemmAlgo_t) {
    if (Atype != CUDA_R_32F || Btype != CUDA_R_32F || Ctype != CUDA_R_32F ||
        (computeType != CUBLAS_COMPUTE_32F && computeType != CUBLAS_COMPUTE_32F_PEDANTIC)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return cublasSgemm_v2(handle, transa, transb, m, n, k, static_cast<const float *>(alpha),
                          static_cast<const float *>(A), lda, static_cast<const float *>(B), ldb,
                          static_cast<const float *>(beta), static_cast<float *>(C), ldc);
}
