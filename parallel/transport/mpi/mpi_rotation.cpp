// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <initializer_list>
#include <optional>
#include <utility>

#include "core/error.hpp"
#include "parallel/transport/mpi/mpi_communicator.hpp"

namespace portolan {
namespace {

class MpiRotation final : public RingRotation {
 public:
  MpiRotation(const MpiGroup& group, const Tensor& own)
      : group_(group),
        current_(own),
        source_(group.rank()),
        exceptions_at_start_(std::uncaught_exceptions()) {}

  ~MpiRotation() override {
    if (!batch_) return;
    // The next rank counts on the block that is on its way.
    try {
      if (std::uncaught_exceptions() > exceptions_at_start_) {
        group_.give_up(fmt::format("rank {} left a ring rotation because of an error of its own",
                                   group_.rank()));
      } else {
        batch_->wait();
      }
    } catch (const std::exception& error) {
      group_.give_up(error.what());  // which the next call throws
    }
  }

  [[nodiscard]] int source() const override { return source_; }
  [[nodiscard]] const Tensor& current() const override { return current_; }

  void prefetch() override {
    if (batch_) return;
    if (!next_.defined()) {
      next_ = allocate_private(current_.shape(), current_.dtype(), current_.device());
    }
    const auto bytes = static_cast<std::int64_t>(current_.bytes());
    const int size = group_.size();
    batch_.emplace(group_, name_of(Collective::ring_shift),
                   std::initializer_list<Tensor>{current_, next_});
    batch_->receive(next_.raw(), bytes, (group_.rank() + size - 1) % size);
    batch_->send(current_.raw(), bytes, (group_.rank() + 1) % size);
    batch_->progress_in_background();
  }

  void advance() override {
    prefetch();
    batch_->wait();
    batch_.reset();
    // The block just used receives the one after next, unless it is the caller's own.
    std::swap(current_, next_);
    if (!advanced_) next_ = Tensor();
    advanced_ = true;
    source_ = (source_ + group_.size() - 1) % group_.size();
  }

 private:
  const MpiGroup& group_;
  Tensor current_;
  Tensor next_;
  int source_;
  bool advanced_ = false;
  int exceptions_at_start_;
  std::optional<MpiGroup::Batch> batch_;
};

}  // namespace

std::unique_ptr<RingRotation> make_mpi_rotation(const MpiGroup& group, const Tensor& own) {
  return std::make_unique<MpiRotation>(group, own);
}

}  // namespace portolan
