// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace portolan::testing_support {

/// A function with a stack of its own that runs until it yields: emulated GPU threads are fibres.
class Fibre {
 public:
  explicit Fibre(std::function<void()> body)
      : body_(std::move(body)), stack_(std::make_unique_for_overwrite<std::byte[]>(kStackBytes)) {
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_.get();
    own_.uc_stack.ss_size = kStackBytes;
    own_.uc_link = nullptr;
    // makecontext passes integers only.
    const auto address = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&own_, reinterpret_cast<void (*)()>(&Fibre::enter), 2,
                static_cast<unsigned>(address), static_cast<unsigned>(address >> 32));
  }
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  [[nodiscard]] bool ended() const { return ended_; }
  /// What ended the body, if it was an exception.
  [[nodiscard]] const std::exception_ptr& error() const { return error_; }

  /// Called from outside: runs the body on from where it yielded.
  void resume() {
#if defined(__SANITIZE_ADDRESS__)
    // The sanitizer has to be told of each change of stacks.
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_.get(), kStackBytes);
    swapcontext(&caller_, &own_);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    swapcontext(&caller_, &own_);
#endif
  }
  /// Called from the body: goes back to whoever resumed it.
  void yield() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(ended_ ? nullptr : &fake_stack, caller_stack_,
                                   caller_stack_bytes_);
    swapcontext(&own_, &caller_);
    __sanitizer_finish_switch_fiber(fake_stack, &caller_stack_, &caller_stack_bytes_);
#else
    swapcontext(&own_, &caller_);
#endif
  }

 private:
  static constexpr std::size_t kStackBytes = std::size_t{256} << 10;

  static void enter(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fibre*>(static_cast<std::uintptr_t>(low) |
                                          static_cast<std::uintptr_t>(high) << 32);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->caller_stack_, &self->caller_stack_bytes_);
#endif
    try {
      self->body_();
    } catch (...) {
      self->error_ = std::current_exception();
    }
    self->ended_ = true;
    self->yield();
  }

  std::function<void()> body_;
  std::unique_ptr<std::byte[]> stack_;
  ucontext_t own_{};
  ucontext_t caller_{};
  const void* caller_stack_ = nullptr;
  std::size_t caller_stack_bytes_ = 0;
  bool ended_ = false;
  std::exception_ptr error_;
};

}  // namespace portolan::testing_support
