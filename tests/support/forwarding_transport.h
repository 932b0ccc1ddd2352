// A transport that passes every call on: what a test wants otherwise, it overrides.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "bus/bus.h"

namespace leat::test {

class ForwardingTransport : public bus::Transport {
 public:
  explicit ForwardingTransport(bus::Transport* inner) : inner_(inner) {}

  bus::Features features() const override { return inner_->features(); }
  Status CreateTopic(std::string_view topic, uint32_t partitions,
                     const bus::TopicOptions& options) override {
    return inner_->CreateTopic(topic, partitions, options);
  }
  Result<std::vector<bus::TopicInfo>> Topics() override { return inner_->Topics(); }
  Result<std::unique_ptr<bus::Membership>> Join(std::string_view topic, std::string_view group,
                                                std::string_view instance) override {
    return inner_->Join(topic, group, instance);
  }
  Result<std::vector<events::Position>> Publish(std::string_view topic,
                                                const std::vector<events::Event>& events) override {
    return inner_->Publish(topic, events);
  }
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override {
    return inner_->PublishTo(topic, partition, events);
  }
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    return inner_->Subscribe(topic, partition, offset);
  }
  Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
    return inner_->End(topic, partition);
  }
  Result<uint64_t> OffsetAt(std::string_view topic, uint32_t partition, int64_t time_us) override {
    return inner_->OffsetAt(topic, partition, time_us);
  }

 protected:
  bus::Transport* const inner_;
};

}  // namespace leat::test
