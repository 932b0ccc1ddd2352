// A toy service: a counter per key. An input "key+n" leads to n events, each of which counts one up; "at
// fault" and "unheard of" are the input's errors, and anything else is the decider's.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "runtime/decider.h"
#include "runtime/inbox.h"
#include "runtime/v1/runtime.pb.h"
#include "tests/support/test_support.h"

namespace leat::test {

inline constexpr std::string_view kCounted = "test.counted.v1";

inline events::Event CountInput(std::string_view key, int n, bool continues = false) {
  EventParts parts;
  parts.type = continues ? "test.asked_part.v1" : "test.asked.v1";
  parts.id = FreshId();
  parts.key = key;
  parts.data = std::string(key) + "+" + std::to_string(n);
  return MakeEvent(parts);
}

// What the projection below counts: "key=n".
inline events::Event CountedInput(std::string_view data) {
  EventParts parts;
  parts.id = FreshId();
  parts.data = data;
  return MakeEvent(parts);
}

class Counter final : public runtime::Decider {
 public:
  bool Begins(const events::EventView& input) const override {
    return input.data.find("+rest") == std::string_view::npos;
  }
  bool Continues(const events::EventView& input) const override {
    return input.type == "test.asked_part.v1";
  }
  bool Continued(const events::EventView& previous, const events::EventView& next) const override {
    return next.data.substr(0, next.data.find('+')) == previous.data.substr(0, previous.data.find('+'));
  }
  bool NeedsLog(const events::EventView& input) const override { return input.subject == "needs log"; }

  Status Decide(const runtime::State& state, const eventstore::Log& log,
                const events::EventView& input, runtime::Decision* decision) override {
    ++decided;
    if (input.subject == "needs log") log_size_seen = log.size();
    const size_t plus = input.data.find('+');
    if (input.data == "at fault") return Invalid("it is at fault");
    if (input.data == "unheard of") return Fail(ErrorClass::kUnsupported, "it is unheard of");
    if (plus == std::string_view::npos) return Fail(ErrorClass::kInternal, "cannot decide");
    const std::string key(input.data.substr(0, plus));
    const int n = std::stoi(std::string(input.data.substr(plus + 1)));
    if (n < 0) return Invalid("less than nothing is asked for");
    uint64_t count;
    if (auto read = Read(state, key); read) {
      count = *read;
    } else {
      return std::unexpected(read.error());
    }
    for (int i = 0; i < n; ++i) {
      decision->Add("counter-" + key, kCounted, input.time_us + i, key,
                    key + "=" + std::to_string(count + static_cast<uint64_t>(i) + 1));
    }
    return {};
  }

  Status Evolve(runtime::State* state, const events::EventView& event, uint64_t) override {
    ++evolved;
    const size_t is = event.data.find('=');
    const std::string key(event.data.substr(0, is));
    LEAT_ASSIGN(const uint64_t count, Read(*state, key));
    // A count that does not follow is an event applied twice, or left out.
    if (std::to_string(count + 1) != event.data.substr(is + 1)) {
      return Fail(ErrorClass::kInternal, "counter " + key + " is at " + std::to_string(count) +
                                             ", and an event says " + std::string(event.data));
    }
    state->Put("c/" + key, std::to_string(count + 1));
    return {};
  }

  static Result<uint64_t> Read(const runtime::State& state, const std::string& key) {
    std::string value;
    LEAT_ASSIGN(const bool found, state.Get("c/" + key, &value));
    return found ? std::stoull(value) : 0;
  }

  std::atomic<int> decided{0};
  std::atomic<int> evolved{0};
  std::atomic<uint64_t> log_size_seen{UINT64_MAX};
};

// Counts the same events once more, as a projection.
class CounterProjection final : public runtime::Projection {
 public:
  Status Evolve(runtime::State* state, const events::EventView& event, uint64_t offset) override {
    if (event.data == "at fault") return Invalid("it is at fault");
    if (event.data == "unheard of") return Fail(ErrorClass::kUnsupported, "it is unheard of");
    if (event.data == "!") return Fail(ErrorClass::kInternal, "cannot apply");
    const size_t is = event.data.find('=');
    const std::string key(event.data.substr(0, is));
    LEAT_ASSIGN(const uint64_t count, Counter::Read(*state, key));
    state->Put("c/" + key, std::to_string(count + 1));
    if (key == "half") return Invalid("half of it is staged");
    state->PutUncached("at/" + std::to_string(offset), event.data);
    ++total_;
    return {};
  }
  std::shared_ptr<const void> Summary() override { return std::make_shared<const uint64_t>(total_); }
  Status Load(const runtime::State& state) override {
    total_ = 0;
    ++loads;
    const auto rows = state.Iterate({});
    for (rows->Seek("c/"); rows->Valid() && rows->key().starts_with("c/"); rows->Next()) {
      total_ += std::stoull(std::string(rows->value()));
    }
    return rows->status();
  }

  int loads = 0;

 private:
  uint64_t total_ = 0;
};

// Every row of a database, in order.
inline std::map<std::string, std::string> Rows(const eventstore::Database& database) {
  std::map<std::string, std::string> out;
  const auto rows = database.NewIterator(eventstore::Family::kRows);
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
    out.emplace(rows->key(), rows->value());
  }
  return out;
}

// The original bytes of a topic's dead letters, in order.
inline std::vector<std::string> DeadLetters(bus::Subscriber& transport, const std::string& topic) {
  const std::string dead = topic + std::string(runtime::kDeadLettersSuffix);
  const uint64_t end = Must(transport.End(dead, 0)).offset;
  const auto subscription = Must(transport.Subscribe(dead, 0, 0));
  std::vector<std::string> out;
  bus::MessageBatch batch;
  while (out.size() < end) {
    Must(subscription->Poll({}, &batch));
    for (const auto& message : batch.messages) {
      runtime::v1::DeadLettered letter;
      if (!letter.ParseFromString(std::string(message.event.data))) return {};
      out.push_back(letter.data());
    }
  }
  return out;
}

// What counts on a topic, as "type subject key data n/m".
inline std::vector<std::string> ReadTopic(bus::Subscriber& transport, const std::string& topic,
                                          uint32_t partition = 0) {
  std::vector<std::string> out;
  const uint64_t end = Must(transport.End(topic, partition)).offset;
  const auto subscription = Must(transport.Subscribe(topic, partition, 0));
  bus::MessageBatch batch;
  runtime::InputPosition position;
  runtime::Window window;
  while (position.next < end) {
    Must(subscription->Poll({}, &batch));
    for (const auto& message : batch.messages) {
      const auto& event = message.event;
      if (!Must(runtime::Admit(topic, message, &position, &window)).counts()) continue;
      out.push_back(std::string(event.type) + " " + std::string(event.subject) + " " +
                    std::string(event.partitionkey) + " " + std::string(event.data) + " " +
                    (event.cause ? std::to_string(event.cause->offset) + "#" +
                                       std::to_string(event.cause->n) + "/" +
                                       std::to_string(event.cause->m)
                                 : "-"));
    }
  }
  return out;
}

inline std::vector<std::string> ReadLog(const eventstore::Log& log) {
  std::vector<std::string> out;
  eventstore::LogCursor cursor = log.Read(0);
  eventstore::LogEvent event;
  while (Must(cursor.Next(&event))) {
    const auto view = Must(event.Decode());
    out.push_back(std::string(view.type) + " " + std::string(view.subject) + " " +
                  std::string(view.partitionkey) + " " + std::string(view.data) + " " +
                  (view.cause ? std::to_string(view.cause->offset) + "#" +
                                    std::to_string(view.cause->n) + "/" +
                                    std::to_string(view.cause->m)
                              : "-"));
  }
  return out;
}

// What the inputs must lead to, worked out without the runtime.
struct Expected {
  std::vector<std::string> events;
  std::map<std::string, std::string> rows;
  std::map<std::string, uint64_t> counts;
  uint64_t inputs = 0;

  void Apply(const std::string& key, int n) {
    for (int i = 1; i <= n; ++i) {
      const uint64_t count = ++counts[key];
      events.push_back("test.counted.v1 counter-" + key + " " + key + " " + key + "=" +
                       std::to_string(count) + " " + std::to_string(inputs) + "#" +
                       std::to_string(i) + "/" + std::to_string(n));
      rows["c/" + key] = std::to_string(count);
    }
    ++inputs;
  }
};

}  // namespace leat::test
