// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/fake_device.hpp"

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>

#include "core/error.hpp"
#include "parallel/transport/shared/shared_segment.hpp"

namespace portolan {
namespace {

class FakeDevice final : public Backend {
 public:
  FakeDevice() { ::mprotect(device_.data(), device_.bytes(), PROT_NONE); }

  [[nodiscard]] Device device() const override { return kFakeDevice; }
  [[nodiscard]] std::string description() const override { return "fake device"; }
  [[nodiscard]] int concurrency() const override { return 1; }
  [[nodiscard]] CachingAllocator& allocator() override { return allocator_; }
  [[nodiscard]] DType compute_dtype(DType dtype) const override { return dtype; }

  void synchronize() override { pending_ = false; }
  [[nodiscard]] Event record(Queue /*queue*/) override { return {}; }
  void wait(Queue /*queue*/, const Event& /*event*/) override {}
  void copy_bytes(void* destination, const void* source, std::size_t bytes,
                  Queue /*queue*/) override {
    if (pending_) throw std::runtime_error("a copy was started before the last one had ended");
    pending_ = true;
    std::memcpy(const_cast<std::byte*>(reach(destination)), reach(source), bytes);
  }
  void push_region(const char* /*name*/) override {}
  void pop_region() override {}

  void fill(const Tensor&, float) override { refuse(); }
  void copy(const Tensor&, const Tensor&) override { refuse(); }
  void random_uniform(const Tensor&, RandomKey, const MatrixBlock&, float, float) override {
    refuse();
  }
  void sum(std::span<const Tensor>, std::span<const Tensor>) override { refuse(); }
  void embedding(const Tensor&, const Tensor&, std::int64_t, const Tensor&) override { refuse(); }
  void rms_norm(const Tensor&, const Tensor&, float, const Tensor&) override { refuse(); }
  void add_rms_norm(const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) override {
    refuse();
  }
  void rotary_embedding(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) override {
    refuse();
  }
  void store_cache_rows(const Tensor&, const Tensor&, const CacheRows&) override { refuse(); }
  void rotary_store_cache_rows(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                               const CacheRows&) override {
    refuse();
  }
  void swiglu(const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  void add(const Tensor&, const Tensor&) override { refuse(); }
  void scale(const Tensor&, float) override { refuse(); }
  void dropout(const Tensor&, float, RandomKey, const MatrixBlock&) override { refuse(); }
  void add_bias(const Tensor&, const Tensor&) override { refuse(); }
  void add_bias_backward(const Tensor&, const Tensor&) override { refuse(); }
  void embedding_backward(const Tensor&, const Tensor&, std::int64_t, const Tensor&) override {
    refuse();
  }
  void rms_norm_backward(const Tensor&, const Tensor&, float, const Tensor&, const Tensor&,
                         const Tensor&, bool) override {
    refuse();
  }
  void add_layer_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      float, const Tensor&) override {
    refuse();
  }
  void layer_norm(const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) override {
    refuse();
  }
  void layer_norm_backward(const Tensor&, const Tensor&, float, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, bool) override {
    refuse();
  }
  void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&) override {
    refuse();
  }
  void gelu(const Tensor&, const Tensor&, GeluKind) override { refuse(); }
  void gelu_backward(const Tensor&, const Tensor&, const Tensor&, GeluKind) override { refuse(); }
  void softmax(const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  void softmax_backward(const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  void cross_entropy_rows(const Tensor&, const Tensor&, std::int64_t, std::int32_t, const Tensor&,
                          const Tensor&, const Tensor&) override {
    refuse();
  }
  void cross_entropy_backward(const Tensor&, const Tensor&, std::int64_t, std::int32_t,
                              const Tensor&, float, const Tensor&) override {
    refuse();
  }
  void choose_tokens(const Tensor&, const Tensor&, const TokenChoice&, const Tensor&, std::int64_t,
                     const Tensor&) override {
    refuse();
  }
  void adamw(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamWStep&,
             const Tensor&) override {
    refuse();
  }
  void sgd(const Tensor&, const Tensor&, const Tensor&, const SgdStep&) override { refuse(); }
  [[nodiscard]] double sum_of_squares(const Tensor&) override { refuse(); }
  void product(const Tensor&, bool, const Tensor&, bool, const Tensor&, bool) override { refuse(); }
  void merge_attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    refuse();
  }
  void attention_delta(const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  [[nodiscard]] WeightLayout packed_layout(std::int64_t, std::int64_t, DType) const override {
    refuse();
  }
  [[nodiscard]] Weight allocate_packed(std::int64_t, std::int64_t, DType) override { refuse(); }
  void pack_rows(const Tensor&, std::int64_t, const Weight&) override { refuse(); }
  void matmul(const Tensor&, const Weight&, const Tensor&, bool) override { refuse(); }

 private:
  static constexpr std::size_t kBytes = std::size_t{64} << 20;

  [[noreturn]] static void refuse() { throw std::runtime_error("the fake device only copies"); }
  /// The same memory where the host may touch it.
  [[nodiscard]] const std::byte* reach(const void* address) const {
    const auto* byte = static_cast<const std::byte*>(address);
    return device_.contains(byte) ? host_.data() + (byte - device_.data()) : byte;
  }

  SharedSegment host_ = SharedSegment::create(kBytes);
  SharedSegment device_ = SharedSegment::open(host_.name());
  std::size_t used_ = 0;
  bool pending_ = false;
  CachingAllocator allocator_{MemorySource{[this](std::size_t bytes) -> void* {
                                             if (used_ + bytes > kBytes)
                                               throw OutOfMemoryError("the fake device is full");
                                             used_ += bytes;
                                             return device_.data() + used_ - bytes;
                                           },
                                           [](void*, std::size_t) {}}};
};

}  // namespace

std::unique_ptr<Backend> make_fake_device() { return std::make_unique<FakeDevice>(); }

}  // namespace portolan
