// A process that stands still.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "tests/support/forwarding_transport.h"

namespace leat::test {

// A process that can be stopped where it stands, as by SIGSTOP: at the n-th step that others could see or that it hears of
// others. A step is the moment before a publish, the moment after it, and the moment after it has read something.
class Freezing final : public ForwardingTransport {
 public:
  Freezing(bus::Transport* inner, int at) : ForwardingTransport(inner), at_(at) {}

  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override {
    Step();
    auto status = inner_->PublishTo(topic, partition, events);
    Step();
    return status;
  }
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Reader>(std::move(inner), this);
  }

  bool WaitFrozen(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return frozen_; });
  }
  bool frozen() {
    std::lock_guard lock(mutex_);
    return frozen_;
  }
  void Thaw() {
    {
      std::lock_guard lock(mutex_);
      at_ = -1;
      frozen_ = false;
    }
    changed_.notify_all();
  }

 private:
  class Reader final : public bus::Subscription {
   public:
    Reader(std::unique_ptr<bus::Subscription> inner, Freezing* owner)
        : inner_(std::move(inner)), owner_(owner) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      bus::PollLimits one = limits;  // more steps
      one.messages_max = 1;
      auto status = inner_->Poll(one, batch);
      if (!batch->messages.empty()) owner_->Step();
      return status;
    }
    void Seek(uint64_t offset) override { inner_->Seek(offset); }
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    Freezing* owner_;
  };

  // All of its threads stop, not one alone.
  void Step() {
    std::unique_lock lock(mutex_);
    if (at_ >= 0 && steps_++ >= at_) {
      frozen_ = true;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return !frozen_; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int at_;  // guarded by mutex_, as the rest
  int steps_ = 0;
  bool frozen_ = false;
};

}  // namespace leat::test
