// What retention has taken.
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>

#include "tests/support/forwarding_transport.h"

namespace leat::test {

// One whose topics have lost their beginning.
class Shortened final : public ForwardingTransport {
 public:
  Shortened(bus::Transport* inner, uint64_t begin) : ForwardingTransport(inner), begin_(begin) {}
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Reader>(std::move(inner), offset, begin_);
  }
  Result<uint64_t> OffsetAt(std::string_view topic, uint32_t partition, int64_t time_us) override {
    LEAT_ASSIGN(const uint64_t offset, inner_->OffsetAt(topic, partition, time_us));
    return std::max(offset, begin_);
  }

 private:
  class Reader final : public bus::Subscription {
   public:
    Reader(std::unique_ptr<bus::Subscription> inner, uint64_t offset, uint64_t begin)
        : inner_(std::move(inner)), offset_(offset), begin_(begin) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      if (offset_ < begin_) return Fail(ErrorClass::kNotFound, "the offset is gone");
      return inner_->Poll(limits, batch);
    }
    void Seek(uint64_t offset) override {
      offset_ = offset;
      inner_->Seek(offset);
    }
    void Wake() override { inner_->Wake(); }

   private:
    const std::unique_ptr<bus::Subscription> inner_;
    uint64_t offset_;
    const uint64_t begin_;
  };
  const uint64_t begin_;
};

}  // namespace leat::test
