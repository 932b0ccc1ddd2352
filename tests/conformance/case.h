// What a case of the suite has at hand.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "tests/conformance/suite.h"
#include "tests/support/test_support.h"

namespace leat::conformance {

inline constexpr auto kPatience = std::chrono::seconds(60);  // before a case is given up as hung
inline constexpr auto kNothing = std::chrono::milliseconds(50);  // long enough to see that nothing comes

// Counts what it checks, for the table. A failure ends the case.
class Case {
 public:
  Case(Harness* harness, uint64_t* assertions) : harness_(harness), assertions_(assertions) {}

  bus::Transport& transport() { return harness_->transport(); }
  Harness& harness() { return *harness_; }

  void Expect(bool condition, const std::string& what) {
    ++*assertions_;
    REQUIRE_MESSAGE(condition, what);
  }
  template <typename A, typename B>
  void Equal(const A& a, const B& b, const std::string& what) {
    ++*assertions_;
    INFO(what);
    REQUIRE(a == b);
  }
  template <typename T>
  T Take(Result<T> result) {
    ++*assertions_;
    return test::Must(std::move(result));
  }
  void Take(const Status& status) {
    ++*assertions_;
    test::Must(status);
  }
  // Polls until something comes. A transport whose End is ahead of what it has at hand may need
  // more than one.
  void PollSome(bus::Subscription& subscription, const bus::PollLimits& limits, bus::MessageBatch* batch) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    do {
      Take(subscription.Poll(limits, batch));
    } while (batch->messages.empty() && !transport().features().end_at_once &&
             std::chrono::steady_clock::now() < deadline);
    Expect(!batch->messages.empty(), "messages come");
  }
  template <typename T>
  void Refused(const Result<T>& result, ErrorClass error_class, const std::string& named) {
    ++*assertions_;
    REQUIRE_FALSE(result.has_value());
    INFO(result.error().Text());
    REQUIRE(core::ErrorClassName(result.error().error_class) == core::ErrorClassName(error_class));
    REQUIRE(result.error().Text().find(named) != std::string::npos);
  }

  void Topic(const std::string& name, uint32_t partitions = 1) {
    // A broker that came back a moment ago may not have all of it yet.
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    Status created;
    do {
      created = transport().CreateTopic(name, partitions);
    } while (!created && created.error().Retryable() &&
             std::chrono::steady_clock::now() < deadline);
    Take(created);
  }

  // Everything from `offset` on until `count` messages are read, no more; offsets must follow one another.
  std::vector<events::Event> Read(const std::string& topic, uint32_t partition, uint64_t offset,
                                  size_t count, const bus::PollLimits& limits = {}) {
    auto subscription = Take(transport().Subscribe(topic, partition, offset));
    return Read(*subscription, offset, count, limits);
  }
  std::vector<events::Event> Read(bus::Subscription& subscription, uint64_t offset, size_t count,
                                  bus::PollLimits limits = {}) {
    std::vector<events::Event> out;
    bus::MessageBatch batch;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (out.size() < count && std::chrono::steady_clock::now() < deadline) {
      limits.messages_max = std::min(limits.messages_max, count - out.size());
      Take(subscription.Poll(limits, &batch));
      for (const bus::Message& message : batch.messages) {
        Equal(message.offset, offset + out.size(), "offsets follow one another");
        out.emplace_back(message.event);
      }
    }
    Equal(out.size(), count, "as many messages as were published");
    return out;
  }

  void Nothing(bus::Subscription& subscription) {
    bus::MessageBatch batch;
    bus::PollLimits limits;
    limits.timeout = kNothing;
    Take(subscription.Poll(limits, &batch));
    Equal(batch.messages.size(), size_t{0}, "nothing more comes");
  }

 private:
  Harness* harness_;
  uint64_t* assertions_;
};

}  // namespace leat::conformance
