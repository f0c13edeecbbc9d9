/* cuda_products.cu - products whose size depends on the batch, and cuBLAS for the others.
 *
 * Both kernels make a 64 x 64 tile of the output with 64 threads, 8 x 8 outputs each, from strips
 * of DEPTH values of the sum: while one strip is multiplied from shared memory the next one is on
 * its way from global memory. With 8 x 8 outputs a thread loads 16 floats from shared memory for 64
 * multiplications, which is what keeps those loads from being the limit.
 */
#include <assert.h>

#include "kernels/cuda/cuda_internal.cuh"

enum {
    TILE = 64,
    HALF = TILE / 2, /* a thread's 8 rows (columns) are 4 in each half */
    DEPTH = 8,       /* values of the sum in one strip */
    SIDE = 8,        /* outputs of a thread, and threads, along each side of the tile */
    TILE_THREADS = SIDE * SIDE,
    /* Rows of a strip in shared memory: a multiple of 4 for float4, and 16 banks further every 4
     * rows, so that a warp storing transposed float4 from 16 matrix rows meets no bank twice. */
    PITCH = TILE + 4,
    STRIP = DEPTH * PITCH,
    TILE_SHARED_BYTES = 2 * 2 * STRIP * (int)sizeof(float), /* two operands, two strips */
    ADD_THREADS = 256
};

/* ---- strips ---- */

/* What a thread carries of a strip from global to shared memory. */
struct strip {
    float4 part[2];
};

/* p[0 .. 4), zeros from `left` on. `aligned`: p is a multiple of 16 bytes, and `left` of 4. */
static __device__ __forceinline__ float4 load_four(const float *p, uint32_t left, bool aligned) {
    if (aligned) {
        return *reinterpret_cast<const float4 *>(p);
    }
    float4 v = make_float4(p[0], 0.0f, 0.0f, 0.0f);
    v.y = left > 1 ? p[1] : 0.0f;
    v.z = left > 2 ? p[2] : 0.0f;
    v.w = left > 3 ? p[3] : 0.0f;
    return v;
}

/* p[0 .. 4) = v, `left` of them at most. */
static __device__ __forceinline__ void store_four(float *p, float4 v, uint32_t left, bool aligned) {
    if (aligned) {
        *reinterpret_cast<float4 *>(p) = v;
        return;
    }
    p[0] = v.x;
    if (left > 1) {
        p[1] = v.y;
    }
    if (left > 2) {
        p[2] = v.z;
    }
    if (left > 3) {
        p[3] = v.w;
    }
}

/* Operand m[k][c] with the tile's c side by side in memory: rows are values of the sum. */
struct along_rows {
    const float *data;     /* from k = 0 on */
    const uint32_t *index; /* row k is index[k] of data; NULL: k */
    uint32_t pitch, column, depth;
    bool aligned;

    __device__ __forceinline__ along_rows(const float *matrix, const uint32_t *rows,
                                          uint32_t columns, uint32_t first, uint32_t count,
                                          bool is_aligned)
        : data(matrix), index(rows), pitch(columns), column(first + 4 * (threadIdx.x % 16)),
          depth(count), aligned(is_aligned) {}

    __device__ __forceinline__ struct strip fetch(uint32_t from) const {
        struct strip s;
        for (unsigned i = 0; i < 2; i++) {
            uint32_t k = from + threadIdx.x / 16 + 4 * i;
            s.part[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (k < depth && column < pitch) {
                size_t row = index != NULL ? index[k] : k;
                s.part[i] = load_four(data + row * pitch + column, pitch - column, aligned);
            }
        }
        return s;
    }
    static __device__ __forceinline__ void put(Shared<float> to, unsigned base,
                                               const struct strip &s) {
        for (unsigned i = 0; i < 2; i++) {
            to.store4(base + (threadIdx.x / 16 + 4 * i) * PITCH + 4 * (threadIdx.x % 16),
                      s.part[i]);
        }
    }
};

/* Operand m[c][k]: the values of the sum lie side by side, and are transposed on their way. */
struct across_rows {
    const float *row[2]; /* NULL: beyond the matrix */
    uint32_t depth;
    bool aligned;

    __device__ __forceinline__ across_rows(const float *matrix, const uint32_t *rows,
                                           uint32_t columns, uint64_t first, uint64_t count,
                                           bool is_aligned)
        : depth(columns), aligned(is_aligned) {
        for (unsigned i = 0; i < 2; i++) {
            uint64_t c = first + threadIdx.x / 2 + HALF * i;
            row[i] = NULL;
            if (c < count) {
                row[i] = matrix + (rows != NULL ? rows[c] : c) * columns;
            }
        }
    }

    __device__ __forceinline__ struct strip fetch(uint32_t from) const {
        struct strip s;
        uint32_t k = from + 4 * (threadIdx.x % 2);
        for (unsigned i = 0; i < 2; i++) {
            s.part[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row[i] != NULL && k < depth) {
                s.part[i] = load_four(row[i] + k, depth - k, aligned);
            }
        }
        return s;
    }
    static __device__ __forceinline__ void put(Shared<float> to, unsigned base,
                                               const struct strip &s) {
        base += 4 * (threadIdx.x % 2) * PITCH + threadIdx.x / 2;
        for (unsigned i = 0; i < 2; i++) {
            to.store(base + HALF * i, s.part[i].x);
            to.store(base + HALF * i + PITCH, s.part[i].y);
            to.store(base + HALF * i + 2 * PITCH, s.part[i].z);
            to.store(base + HALF * i + 3 * PITCH, s.part[i].w);
        }
    }
};

/* ---- a tile ---- */

/* A thread's outputs: rows 4 y + i % 4 of half i / 4, columns 4 x + j % 4 of half j / 4. */
struct tile {
    float sum[SIDE][SIDE];
    float a_sum; /* of the a whose tile row is this thread's number */
};

static __device__ __forceinline__ unsigned tile_x() {
    return threadIdx.x % SIDE;
}

static __device__ __forceinline__ unsigned tile_y() {
    return threadIdx.x / SIDE;
}

static __device__ __forceinline__ void spread(float (&to)[SIDE], float4 low, float4 high) {
    to[0] = low.x;
    to[1] = low.y;
    to[2] = low.z;
    to[3] = low.w;
    to[4] = high.x;
    to[5] = high.y;
    to[6] = high.z;
    to[7] = high.w;
}

static __device__ __forceinline__ void multiply_strip(struct tile &out, Shared<float> as,
                                                      Shared<float> bs, unsigned base) {
#pragma unroll
    for (unsigned k = 0; k < DEPTH; k++) {
        unsigned at = base + k * PITCH;
        float a[SIDE], b[SIDE];
        spread(a, as.load4(at + 4 * tile_y()), as.load4(at + HALF + 4 * tile_y()));
        spread(b, bs.load4(at + 4 * tile_x()), bs.load4(at + HALF + 4 * tile_x()));
#pragma unroll
        for (unsigned i = 0; i < SIDE; i++) {
#pragma unroll
            for (unsigned j = 0; j < SIDE; j++) {
                out.sum[i][j] = fmaf(a[i], b[j], out.sum[i][j]);
            }
        }
    }
}

/* out = sum over k < depth of a[k][row] b[k][column], k upwards; with `sum_a` also the sums of a. */
template <class A, class B>
static __device__ __forceinline__ void multiply(struct tile &out, const A &a, const B &b,
                                                uint32_t depth, bool sum_a) {
    SharedMemory memory;
    Shared<float> as = memory.take<float>(2 * STRIP);
    Shared<float> bs = memory.take<float>(2 * STRIP);
    out = {};
    A::put(as, 0, a.fetch(0));
    B::put(bs, 0, b.fetch(0));
    __syncthreads();
    unsigned base = 0;
    for (uint32_t k = 0; k < depth; k += DEPTH) {
        struct strip next_a = a.fetch(k + DEPTH), next_b = b.fetch(k + DEPTH);
        multiply_strip(out, as, bs, base);
        if (sum_a) {
#pragma unroll
            for (unsigned i = 0; i < DEPTH; i++) {
                out.a_sum += as.load(base + i * PITCH + threadIdx.x);
            }
        }
        base = STRIP - base;
        A::put(as, base, next_a);
        B::put(bs, base, next_b);
        __syncthreads();
    }
}

static __device__ __forceinline__ float4 tile_four(const struct tile &t, unsigned i, unsigned q) {
    return make_float4(t.sum[i][4 * q], t.sum[i][4 * q + 1], t.sum[i][4 * q + 2],
                       t.sum[i][4 * q + 3]);
}

static __device__ __forceinline__ unsigned tile_row(unsigned i) {
    return i / 4 * HALF + 4 * tile_y() + i % 4;
}

static __device__ __forceinline__ unsigned tile_column(unsigned q) {
    return q * HALF + 4 * tile_x();
}

/* ---- outer products ---- */

/* Both products of a launch, with what they share. */
struct outer_job {
    struct cuda_outer product[2];
    const uint64_t *tokens;
    const uint32_t *sequences;
    float *parts; /* [product][chunk of this batch][part_floats] */
    size_t part_floats;
    uint32_t column_tiles;
    bool a_aligned, b_aligned;
};

/* A chunk is CUDA_PRODUCT_ROWS rows, or as many times more as keep the chunks to
 * CUDA_PRODUCT_CHUNKS. */
static __host__ __device__ __forceinline__ uint64_t chunk_rows(uint64_t count) {
    const uint64_t most = (uint64_t)CUDA_PRODUCT_ROWS * CUDA_PRODUCT_CHUNKS;
    return CUDA_PRODUCT_ROWS * (count > most ? (count + most - 1) / most : 1);
}

static __host__ __device__ __forceinline__ uint32_t chunks_of(uint64_t count) {
    return (uint32_t)((count + chunk_rows(count) - 1) / chunk_rows(count));
}

static __device__ __forceinline__ uint64_t count_of(const struct outer_job &job) {
    return job.tokens != NULL ? *job.tokens : *job.sequences;
}

/* A tile of the part of one chunk. Blocks: tiles x chunks x products. */
static __global__ void __launch_bounds__(TILE_THREADS) outer_kernel(struct outer_job job) {
    cuda_block_of(TILE_THREADS);
    uint64_t count = count_of(job);
    uint64_t first = blockIdx.y * chunk_rows(count);
    if (first >= count) {
        return;
    }
    const struct cuda_outer &product = job.product[blockIdx.z];
    uint32_t rows = product.rows, columns = product.columns;
    uint32_t row = blockIdx.x / job.column_tiles * TILE;
    uint32_t column = blockIdx.x % job.column_tiles * TILE;
    uint32_t depth = (uint32_t)min(chunk_rows(count), count - first);
    bool sum_a = column == 0 && product.row_sums != NULL;
    const float *b = product.index != NULL ? product.b : product.b + first * columns;
    struct tile out;
    multiply(out, along_rows(product.a + first * rows, NULL, rows, row, depth, job.a_aligned),
             along_rows(b, product.index != NULL ? product.index + first : NULL, columns, column,
                        depth, job.b_aligned),
             depth, sum_a);

    float *part =
        job.parts + ((size_t)blockIdx.z * chunks_of(count) + blockIdx.y) * job.part_floats;
#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) {
#pragma unroll
        for (unsigned q = 0; q < 2; q++) {
            uint32_t r = row + tile_row(i), c = column + tile_column(q);
            if (r < rows && c < columns) {
                store_four(part + (size_t)r * columns + c, tile_four(out, i, q), columns - c,
                           columns % 4 == 0);
            }
        }
    }
    if (sum_a && row + threadIdx.x < rows) {
        part[(size_t)rows * columns + row + threadIdx.x] = out.a_sum;
    }
}

/* Adds the parts of each output, chunk after chunk. Blocks: outputs x products. */
static __global__ void __launch_bounds__(ADD_THREADS) add_parts_kernel(struct outer_job job) {
    cuda_block_of(ADD_THREADS);
    const struct cuda_outer &product = job.product[blockIdx.y];
    size_t outputs = (size_t)product.rows * product.columns;
    size_t i = (size_t)blockIdx.x * ADD_THREADS + threadIdx.x;
    if (i >= outputs + (product.row_sums != NULL ? product.rows : 0)) {
        return;
    }
    uint32_t chunks = chunks_of(count_of(job));
    const float *part = job.parts + (size_t)blockIdx.y * chunks * job.part_floats + i;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t c = 0; c < chunks; c++) {
        sum += part[c * job.part_floats];
    }
    if (i < outputs) {
        product.out[i] = sum;
    } else {
        product.row_sums[i - outputs] = sum;
    }
}

/* Floats of one part: outputs and row sums, in whole float4. */
static size_t part_floats(uint32_t rows, uint32_t columns) {
    return ((size_t)rows * columns + rows + 3) / 4 * 4;
}

size_t cuda_outer_floats(uint64_t count_max, uint32_t rows, uint32_t columns) {
    uint64_t most = (count_max + CUDA_PRODUCT_ROWS - 1) / CUDA_PRODUCT_ROWS;
    if (most > CUDA_PRODUCT_CHUNKS) {
        most = CUDA_PRODUCT_CHUNKS;
    }
    size_t floats;
    return __builtin_mul_overflow(most, part_floats(rows, columns), &floats) ? SIZE_MAX : floats;
}

/* Can rows of `columns` floats from here on be read as float4? */
static bool is_aligned(const float *matrix, uint32_t columns) {
    return (uintptr_t)matrix % 16 == 0 && columns % 4 == 0;
}

enum status cuda_outer_products(struct cuda_backend *be, const struct cuda_outer *first,
                                const struct cuda_outer *second, const uint64_t *tokens,
                                const uint32_t *sequences, uint64_t count_max, float *parts,
                                const char *name, struct error *err) {
    assert((tokens == NULL) != (sequences == NULL));
    assert(second == NULL || (second->rows == first->rows && second->columns == first->columns));
    struct outer_job job = {};
    unsigned products = second != NULL ? 2 : 1;
    job.product[0] = *first;
    job.product[1] = *(second != NULL ? second : first);
    job.tokens = tokens;
    job.sequences = sequences;
    job.parts = parts;
    job.part_floats = part_floats(first->rows, first->columns);
    job.column_tiles = cuda_blocks(first->columns, TILE);
    job.a_aligned = is_aligned(first->a, first->rows) && is_aligned(job.product[1].a, first->rows);
    job.b_aligned =
        is_aligned(first->b, first->columns) && is_aligned(job.product[1].b, first->columns);
    unsigned tiles = cuda_blocks(first->rows, TILE) * job.column_tiles;
    uint64_t chunks = cuda_outer_floats(count_max, first->rows, first->columns) / job.part_floats;
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    if (chunks > 0) {
        TRY(cuda_launch(stream, name, dim3(tiles, (unsigned)chunks, products), TILE_THREADS,
                        TILE_SHARED_BYTES, outer_kernel, err, job));
    }
    return cuda_launch(stream, name, dim3(cuda_blocks(job.part_floats, ADD_THREADS), products),
                       ADD_THREADS, 0, add_parts_kernel, err, job);
}

/* ---- products by row ---- */

struct rows_job {
    struct cuda_rows product;
    const uint64_t *tokens;
    bool a_aligned, w_aligned, out_aligned;
};

static __device__ __forceinline__ float4 add_four(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

static __device__ __forceinline__ void store_rows(const struct rows_job &job,
                                                  const struct tile &out, uint64_t rows,
                                                  uint64_t row, uint32_t column) {
    const struct cuda_rows &product = job.product;
#pragma unroll
    for (unsigned q = 0; q < 2; q++) {
        uint32_t c = column + tile_column(q);
        if (c >= product.columns) {
            continue;
        }
        uint32_t left = product.columns - c;
        float4 init = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (product.init != NULL) {
            init = load_four(product.init + c, left, false);
        }
#pragma unroll
        for (unsigned i = 0; i < SIDE; i++) {
            uint64_t r = row + tile_row(i);
            if (r < rows) {
                float *to = product.out + r * product.columns + c;
                float4 value = add_four(init, tile_four(out, i, q));
                if (product.add) {
                    value = add_four(load_four(to, left, job.out_aligned), value);
                }
                store_four(to, value, left, job.out_aligned);
            }
        }
    }
}

/* Blocks: tiles of rows x tiles of columns. */
template <bool TRANSPOSED>
static __global__ void __launch_bounds__(TILE_THREADS) row_products_kernel(struct rows_job job) {
    cuda_block_of(TILE_THREADS);
    const struct cuda_rows &product = job.product;
    uint64_t rows = *job.tokens;
    uint64_t row = (uint64_t)blockIdx.x * TILE;
    if (row >= rows) {
        return;
    }
    uint32_t column = blockIdx.y * TILE, K = product.K;
    across_rows a(product.a, product.index, K, row, rows, job.a_aligned);
    struct tile out;
    if (TRANSPOSED) {
        multiply(out, a, along_rows(product.w, NULL, product.columns, column, K, job.w_aligned), K,
                 false);
    } else {
        multiply(out, a, across_rows(product.w, NULL, K, column, product.columns, job.w_aligned), K,
                 false);
    }
    store_rows(job, out, rows, row, column);
}

enum status cuda_row_products(struct cuda_backend *be, const struct cuda_rows *product,
                              const uint64_t *tokens, uint64_t count_max, const char *name,
                              struct error *err) {
    if (count_max == 0) {
        return STATUS_OK;
    }
    struct rows_job job = {};
    job.product = *product;
    job.tokens = tokens;
    job.a_aligned = is_aligned(product->a, product->K);
    job.w_aligned = is_aligned(product->w, product->transposed ? product->columns : product->K);
    job.out_aligned = is_aligned(product->out, product->columns);
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], name,
                       dim3(cuda_blocks(count_max, TILE), cuda_blocks(product->columns, TILE)),
                       TILE_THREADS, TILE_SHARED_BYTES,
                       product->transposed ? row_products_kernel<true> : row_products_kernel<false>,
                       err, job);
}

/* ---- cuBLAS ---- */

static enum status blas_failed(cublasStatus_t status, const char *name, struct error *err) {
    return error_set(err, status == CUBLAS_STATUS_ALLOC_FAILED ? STATUS_MEMORY : STATUS_DEVICE,
                     "%s: cuBLAS: %s (%s)", name, cublasGetStatusString(status),
                     cublasGetStatusName(status));
}

enum status cuda_blas_product(struct cuda_backend *be, const struct cuda_product *product,
                              const char *name, struct error *err) {
    /* cuBLAS counts by columns: what it sees is the transpose of each matrix, so that the operands
     * change places. */
    int m = (int)product->rows, n = (int)product->columns, k = (int)product->depth;
    const float one = 1.0f, beta = product->add ? 1.0f : 0.0f;
    cublasStatus_t status = cublasGemmEx(
        be->blas, product->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
        product->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, n, m, k, &one, product->b, CUDA_R_32F,
        product->b_transposed ? k : n, product->a, CUDA_R_32F, product->a_transposed ? m : k, &beta,
        product->out, CUDA_R_32F, n, be->blas_compute, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? STATUS_OK : blas_failed(status, name, err);
}
