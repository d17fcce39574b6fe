// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/allocator.hpp"
#include "core/device.hpp"
#include "core/gelu_kind.hpp"
#include "core/random.hpp"
#include "core/tensor.hpp"
#include "core/token_choice.hpp"
#include "core/weight.hpp"

namespace portolan {

/// Queues of a device on which work is ordered. Host backends run everything at once, in order.
enum class Queue { compute, communication };

/// A point in a queue. Default-constructed: already reached.
class Event {
 public:
  Event() = default;
  explicit Event(std::shared_ptr<void> handle) : handle_(std::move(handle)) {}
  [[nodiscard]] void* handle() const noexcept { return handle_.get(); }

 private:
  std::shared_ptr<void> handle_;
};

/// Operations in their order, to be carried out again and again.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  /// Enqueues all of them on Queue::compute, on the memory that they were recorded with, whatever
  /// it holds now.
  virtual void start() = 0;
};

/// Calls `work` at every start.
[[nodiscard]] std::unique_ptr<RecordedWork> repeated_call(std::function<void()> work);

/// Where tokens that come in go in a key/value cache. `rows` i32 [B, 2], contiguous: of each entry
/// the rows [begin, end) that hold tokens, those that come in included, which are the last.
struct CacheRows {
  Tensor keys;    ///< [B, capacity, Hkv, D], dense in D
  Tensor values;  ///< like keys
  Tensor rows;    ///< read when an operation runs, not when it is enqueued
};

/// Which part of a global matrix a tensor is, so that random numbers can be indexed globally.
struct MatrixBlock {
  std::int64_t row_begin = 0;
  std::int64_t column_begin = 0;
  std::int64_t columns = 0;  ///< of the global matrix
};

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).
struct AdamWStep {
  float learning_rate = 0.0F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  float weight_decay = 0.0F;
  float bias_correction1 = 1.0F;  ///< 1 - beta1^t at step t = 1, 2, ...
  float bias_correction2 = 1.0F;  ///< 1 - beta2^t
  float gradient_scale = 1.0F;    ///< multiplies the gradient first: clipping, loss scaling
};

/// One step of gradient descent with momentum; weight decay is added to the gradient.
struct SgdStep {
  float learning_rate = 0.0F;
  float momentum = 0.0F;
  float weight_decay = 0.0F;
  float gradient_scale = 1.0F;  ///< multiplies the gradient first
};

/// Every operation a device offers. Shapes, dtypes and devices are checked by the functions of
/// core/ops.hpp, which models and parallel code call; implementations may rely on it.
///
/// Unless said otherwise tensors are on this device, of one dtype (f32, bf16 or f16), rows are
/// contiguous in the last dimension, and arithmetic is in f32 with one rounding at the end.
/// Operations enqueue on Queue::compute; results are visible to the host after synchronize().
class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual Device device() const = 0;
  /// One line for records: libraries, versions, instruction set, threads.
  [[nodiscard]] virtual std::string description() const = 0;
  /// Threads that an operation may use (1 for a GPU).
  [[nodiscard]] virtual int concurrency() const = 0;
  [[nodiscard]] virtual CachingAllocator& allocator() = 0;
  /// Dtype in which a product of `dtype` operands is computed: f32 where the device has no faster
  /// way.
  [[nodiscard]] virtual DType compute_dtype(DType dtype) const = 0;

  // Order and transfer
  // -----------------------------------------------------------------------------
  virtual void synchronize() = 0;
  [[nodiscard]] virtual Event record(Queue queue) = 0;
  virtual void wait(Queue queue, const Event& event) = 0;
  /// Between this device and host memory, either direction, dense bytes, ordered on `queue`.
  virtual void copy_bytes(void* destination, const void* source, std::size_t bytes,
                          Queue queue) = 0;
  /// Whether recorded work costs less to start than its operations one by one.
  [[nodiscard]] virtual bool prefers_recorded_work() const { return false; }
  /// Carries out `work` and records the operations that it enqueues on Queue::compute, for which it
  /// may be called again. It neither waits nor copies from or to the host, uses no tensor of its
  /// own after it has returned, and everything that may differ when it is started again lies in
  /// device memory. The result keeps the memory that `work` takes; what else it uses must outlive
  /// it. Without an own way of recording, what is repeated is the call.
  [[nodiscard]] virtual std::unique_ptr<RecordedWork> run_and_record(std::function<void()> work);
  /// Marks a region of the profile (Kokkos Tools; NVTX too on CUDA). Strictly nested.
  virtual void push_region(const char* name) = 0;
  virtual void pop_region() = 0;

  // Element-wise
  // -----------------------------------------------------------------------------------
  /// Any shape, strided; any dtype the engine computes in.
  virtual void fill(const Tensor& out, float value) = 0;
  /// Same shape, any strides, dtypes may differ (rounds to nearest even). Also i32, i64, u8 to
  /// their like.
  virtual void copy(const Tensor& source, const Tensor& out) = 0;
  /// out[r, c] = mean + scale * u, u uniform on [-1, 1) drawn at the element's global index
  /// (block.row_begin + r) * block.columns + block.column_begin + c. out: [rows, cols].
  virtual void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block,
                              float mean, float scale) = 0;
  /// Each of outs = inputs[0] + inputs[1] + ..., summed in that order in f32 and rounded once. All
  /// contiguous, of one shape; outs may be among the inputs. Several outs, because a reduction that
  /// writes every rank's copy while the sum is in cache saves a pass over memory.
  virtual void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs) = 0;
  /// y += x. Same shape, any strides; dtypes may differ, as where f32 sums take in bf16 gradients.
  virtual void add(const Tensor& x, const Tensor& y) = 0;
  /// x *= factor. Any shape and strides.
  virtual void scale(const Tensor& x, float factor) = 0;
  /// Drops elements of x [rows, cols] and scales the others by 1 / (1 - probability), in place.
  /// Which ones is a pure function of key and of the element's global index, counted as in
  /// random_uniform: dropped where its word is less than dropout_threshold(probability). The
  /// gradient is the same operation on the gradient.
  virtual void dropout(const Tensor& x, float probability, RandomKey key,
                       const MatrixBlock& block) = 0;
  /// x[r, c] += bias[c]. x [n, features], rows may be strided; bias [features] of its dtype or f32.
  virtual void add_bias(const Tensor& x, const Tensor& bias) = 0;
  /// grad_bias[c] += sum over r of grad_out[r, c]. grad_bias f32.
  virtual void add_bias_backward(const Tensor& grad_out, const Tensor& grad_bias) = 0;

  // Transformer
  // ------------------------------------------------------------------------------------
  /// out[i, :] = table[ids[i] - first_row, :], or 0 where that row is not in the table.
  /// ids [n] i32, table [rows, hidden], out [n, hidden].
  virtual void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row,
                         const Tensor& out) = 0;
  /// grad_table[ids[i] - first_row, :] += grad_out[i, :], in the order of i; ids whose row is not
  /// in the table are passed over. grad_out [n, hidden], grad_table [rows, hidden] f32.
  virtual void embedding_backward(const Tensor& ids, const Tensor& grad_out, std::int64_t first_row,
                                  const Tensor& grad_table) = 0;
  /// out = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, arXiv:1910.07467).
  /// x, out [n, hidden], rows may be strided; weight [hidden].
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float epsilon,
                        const Tensor& out) = 0;
  /// residual += x, rounded to its dtype, then out = rms_norm(residual). All [n, hidden].
  virtual void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                            float epsilon, const Tensor& out) = 0;
  /// Of rms_norm, from its input. grad_x = gradient, or += it. grad_weight [hidden] f32 always +=.
  /// grad_out and grad_x are of x's dtype or f32; grad_x may be grad_out or x.
  virtual void rms_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                                 const Tensor& grad_out, const Tensor& grad_x,
                                 const Tensor& grad_weight, bool accumulate_x) = 0;
  /// out = (x - mean) / sqrt(variance + epsilon) * weight + bias, the variance of all features
  /// (Ba, Kiros and Hinton 2016, arXiv:1607.06450). Shapes and dtypes as of rms_norm.
  virtual void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                          const Tensor& out) = 0;
  /// residual += x + x_bias, rounded to its dtype, then out = layer_norm(residual). x_bias
  /// [hidden], of the weight's dtype, may be undefined. All [n, hidden].
  virtual void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                              const Tensor& weight, const Tensor& bias, float epsilon,
                              const Tensor& out) = 0;
  /// As rms_norm_backward; grad_bias [hidden] f32 always += too.
  virtual void layer_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                                   const Tensor& grad_out, const Tensor& grad_x,
                                   const Tensor& grad_weight, const Tensor& grad_bias,
                                   bool accumulate_x) = 0;
  /// Rotates pairs (i, i + head_dim/2) of x [tokens, heads, head_dim] in place by the angles whose
  /// cosines and sines are rows `positions[t]` of cosines, sines [length, head_dim/2] f32 (Su et
  /// al. 2021, arXiv:2104.09864, half-split convention). positions [tokens] i32, each in
  /// [0, length), which nobody checks; x strided by tokens. `inverse` rotates by the negative
  /// angles, which is the gradient.
  virtual void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                                const Tensor& sines, bool inverse) = 0;
  /// Copies k and v [B * s, Hkv, D], strided by tokens and heads, s tokens of each entry, to the
  /// last s rows of the cache that hold tokens. Tokens without a row there are passed over.
  virtual void store_cache_rows(const Tensor& k, const Tensor& v, const CacheRows& cache) = 0;
  /// x [B * s, H + 2 Hkv, D] holds queries, keys and values side by side: rotates the queries in
  /// place and stores keys, rotated as by rotary_embedding, and values in the cache. What is left
  /// of them in x means nothing.
  virtual void rotary_store_cache_rows(const Tensor& x, const Tensor& positions,
                                       const Tensor& cosines, const Tensor& sines,
                                       const CacheRows& cache) = 0;
  /// out = silu(gate) * up; gate, up, out [n, features], rows may be strided (Shazeer 2020,
  /// arXiv:2002.05202).
  virtual void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) = 0;
  /// All [n, features]; grad_gate and grad_up may be gate and up, or grad_out.
  virtual void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out,
                               const Tensor& grad_gate, const Tensor& grad_up) = 0;
  /// out = gelu(x), both [n, features]; rows may be strided, out may be x.
  virtual void gelu(const Tensor& x, const Tensor& out, GeluKind kind) = 0;
  /// From the input of gelu. grad_x may be x or grad_out.
  virtual void gelu_backward(const Tensor& x, const Tensor& grad_out, const Tensor& grad_x,
                             GeluKind kind) = 0;

  // Softmax and loss
  // -------------------------------------------------------------------------------
  /// Over the last dimension of x [n, columns]; log_sum_exp [n] f32 is the logarithm of the sum of
  /// exp(x). A row of -inf alone gives 0 and -inf. out may be x.
  virtual void softmax(const Tensor& x, const Tensor& out, const Tensor& log_sum_exp) = 0;
  /// From the result of softmax: grad_x = out * (grad_out - sum(out * grad_out)). grad_x may be
  /// out or grad_out.
  virtual void softmax_backward(const Tensor& out, const Tensor& grad_out,
                                const Tensor& grad_x) = 0;
  /// What one holder of columns [first_column, first_column + local) of the logits knows of each
  /// row: its largest logit, the sum of exp(logit - maximum), and the logit of the row's label, 0
  /// where the label is ignore_label or its column is elsewhere. logits [n, local], rows may be
  /// strided; labels [n] i32; maximum, sum, target [n] f32.
  virtual void cross_entropy_rows(const Tensor& logits, const Tensor& labels,
                                  std::int64_t first_column, std::int32_t ignore_label,
                                  const Tensor& maximum, const Tensor& sum,
                                  const Tensor& target) = 0;
  /// grad_logits = (exp(logits - log_sum_exp) - [column is the label]) * scale, 0 in rows whose
  /// label is ignore_label. log_sum_exp [n] f32 of whole rows. grad_logits may be logits.
  virtual void cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                      std::int64_t first_column, std::int32_t ignore_label,
                                      const Tensor& log_sum_exp, float scale,
                                      const Tensor& grad_logits) = 0;

  /// Chooses the token of step `step` of each row: ids[i] is a pure function of the row, `choice`,
  /// sequences[i] and `step`, the same bits on every device and for any number of threads; -1 where
  /// a logit is NaN or the largest is not finite. logits [n, vocabulary] f32, rows may be strided,
  /// -infinity excludes a token; seen [n, vocabulary] u8, rows may be strided, 1 where a token
  /// occurred, or undefined: the repetition penalty applies to logits as they are read, and the
  /// chosen token is marked. sequences, ids [n] i32.
  virtual void choose_tokens(const Tensor& logits, const Tensor& seen, const TokenChoice& choice,
                             const Tensor& sequences, std::int64_t step, const Tensor& ids) = 0;

  // Optimizers
  // -------------------------------------------------------------------------------------
  /// p -= lr * weight_decay * p, then p -= lr * (m / c1) / (sqrt(v / c2) + epsilon) with the
  /// moments m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2. param, grad and the
  /// moments are f32 of one shape, contiguous; `copy`, if defined, gets param rounded to its dtype.
  virtual void adamw(const Tensor& param, const Tensor& grad, const Tensor& first_moment,
                     const Tensor& second_moment, const AdamWStep& step, const Tensor& copy) = 0;
  /// g += weight_decay * p; buffer = momentum * buffer + g; p -= lr * buffer. Without a buffer
  /// (undefined) p -= lr * g. All f32 of one shape, contiguous.
  virtual void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
                   const SgdStep& step) = 0;
  /// Of a contiguous tensor, in f64 over fixed blocks. Waits for the result.
  [[nodiscard]] virtual double sum_of_squares(const Tensor& x) = 0;

  /// Merges a block's partial attention into (out, log_sum_exp): see attention_merge of
  /// attention/attention.hpp. block_out, out [B, S, H, D] f32, log-sum-exps [B, H, S] f32,
  /// contiguous.
  virtual void merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp,
                               const Tensor& out, const Tensor& log_sum_exp) = 0;

  /// delta[b, h, s] = sum over d of out[b, s, h, d] * grad_out[b, s, h, d]. out, grad_out
  /// [B, S, H, D] of any strides, dense in D, dtypes may differ; delta [B, H, S] f32, any strides.
  virtual void attention_delta(const Tensor& out, const Tensor& grad_out, const Tensor& delta) = 0;

  // Matrix products
  // --------------------------------------------------------------------------------
  /// The layout in which this device wants inference weights of that shape and dtype.
  [[nodiscard]] virtual WeightLayout packed_layout(std::int64_t out_features,
                                                   std::int64_t in_features, DType dtype) const = 0;
  /// Uninitialised packed weight; filled by pack_rows in any order.
  [[nodiscard]] virtual Weight allocate_packed(std::int64_t out_features, std::int64_t in_features,
                                               DType dtype) = 0;
  /// Writes output features [first_row, first_row + rows.dim(0)) of a packed weight from plain rows
  /// [n, in]. first_row is a multiple of kPanelWidth; n too, except at the last feature. The
  /// padding of the panels it touches is zeroed. A quantized weight gets the rows quantized.
  virtual void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight) = 0;
  /// out = x W^T, or out += x W^T. x [n, in], out [n, out], rows may be strided; dtype of out is
  /// that of x, or f32.
  virtual void matmul(const Tensor& x, const Weight& weight, const Tensor& out,
                      bool accumulate) = 0;
  /// out = x W^T + bias [out features], of out's dtype or f32. In 16 bits the product may be
  /// rounded before the bias is added.
  virtual void matmul_bias(const Tensor& x, const Weight& weight, const Tensor& bias,
                           const Tensor& out) {
    matmul(x, weight, out, false);
    add_bias(out, bias);
  }
  /// out [m, n] = op(a) op(b), or += that, where op(a) [m, k] is a, or its transpose with
  /// transpose_a, and op(b) [k, n] likewise. Rows may be strided. a and b may differ in dtype; out
  /// is f32 or of the dtype of a.
  virtual void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                       const Tensor& out, bool accumulate) = 0;
};

/// The backend of a device. Throws UnsupportedError if this build or process has none.
[[nodiscard]] Backend& backend_of(Device device);
[[nodiscard]] bool has_backend(Device device);
/// Called by the runtime at start and end; explicit because static initialisers vanish from static
/// libraries.
void register_backend(std::unique_ptr<Backend> backend);
void unregister_backends();
/// Registered backends, for listing.
[[nodiscard]] std::span<const std::unique_ptr<Backend>> registered_backends();

/// A region of the profile for the lifetime of the object: `Portolan::<Component>::<operation>`.
class ProfilingRegion {
 public:
  ProfilingRegion(Device device, const char* name) : backend_(backend_of(device)) {
    backend_.push_region(name);
  }
  ~ProfilingRegion() { backend_.pop_region(); }
  ProfilingRegion(const ProfilingRegion&) = delete;
  ProfilingRegion& operator=(const ProfilingRegion&) = delete;

 private:
  Backend& backend_;
};

}  // namespace portolan
