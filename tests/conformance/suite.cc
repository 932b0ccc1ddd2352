#include "tests/conformance/suite.h"

#include <doctest/doctest.h>

#include <atomic>
#include <map>
#include <numeric>
#include <set>
#include <thread>
#include <utility>

#include "bus/partitioner.h"
#include "core/clock.h"
#include "tests/conformance/case.h"
#include "tests/conformance/ledger_cases.h"
#include "tests/conformance/member_process.h"
#include "runtime/request.h"
#include "tests/support/test_support.h"

namespace leat::conformance {
namespace {

using bus::Membership;
using bus::Message;
using bus::MessageBatch;
using bus::PollLimits;
using bus::Subscription;
using test::Below;
using test::DataEvent;
using test::Must;
using test::Random;

std::string Number(uint64_t n) { return std::to_string(n); }

events::Event Keyed(const std::string& key, const std::string& data) {
  test::EventParts parts;
  parts.key = key;
  parts.data = data;
  return test::MakeEvent(parts);
}

// ---- the cases

void OrderPerPartition(Case& c) {
  constexpr uint32_t kPartitions = 4;
  constexpr int kEvents = 500;
  c.Topic("order", kPartitions);
  std::map<uint32_t, std::vector<std::string>> expected;
  std::vector<events::Event> batch;
  for (int i = 0; i < kEvents; ++i) {
    const std::string key = "key-" + Number(static_cast<uint64_t>(i) % 17);
    expected[bus::PartitionOf(key, kPartitions)].push_back(Number(static_cast<uint64_t>(i)));
    batch.push_back(Keyed(key, Number(static_cast<uint64_t>(i))));
    if (i % 7 == 0 || i == kEvents - 1) {
      c.Equal(c.Take(c.transport().Publish("order", batch)).size(), batch.size(), "a position each");
      batch.clear();
    }
  }
  for (uint32_t partition = 0; partition < kPartitions; ++partition) {
    const auto& want = expected[partition];
    c.Equal(c.Take(c.transport().End("order", partition)).offset, want.size(), "the partition's end");
    const auto got = c.Read("order", partition, 0, want.size());
    for (size_t i = 0; i < want.size(); ++i) c.Expect(got[i].view().data == want[i], "in order");
  }
}

void PartitionByKey(Case& c) {
  constexpr uint32_t kPartitions = 5;
  c.Topic("keys", kPartitions);
  std::vector<events::Event> batch;
  std::vector<std::string> keys;
  for (int i = 0; i < 60; ++i) {
    test::EventParts parts;
    parts.id = "id-" + std::to_string(i);
    if (i % 3 != 0) parts.subject = "subject-" + std::to_string(i);
    if (i % 3 == 2) parts.key = "key-" + std::to_string(i);
    keys.push_back(i % 3 == 0 ? parts.id : i % 3 == 1 ? parts.subject : parts.key);
    parts.data = keys.back();
    batch.push_back(test::MakeEvent(parts));
  }
  const auto positions = c.Take(c.transport().Publish("keys", batch));
  c.Equal(positions.size(), keys.size(), "a position each");
  for (size_t i = 0; i < keys.size(); ++i) {
    c.Equal(positions[i].topic, std::string("keys"), "topic");
    c.Equal(positions[i].partition, bus::PartitionOf(keys[i], kPartitions), "murmur2 of the key");
    const auto got = c.Read("keys", positions[i].partition, positions[i].offset, 1);
    c.Expect(got[0].view().data == keys[i], "the event lies where its position says");
  }
}

void DurableOverReopen(Case& c) {
  c.Topic("durable", 2);
  std::map<uint32_t, std::vector<std::string>> expected;
  uint64_t n = 0;
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 20; ++i, ++n) {
      const std::string key = "k" + Number(n % 5);
      const auto at = c.Take(c.transport().Publish("durable", {Keyed(key, Number(n))}));
      auto& partition = expected[at[0].partition];
      c.Equal(at[0].offset, partition.size(), "offsets go on over a reopening");
      partition.push_back(Number(n));
    }
    c.harness().Reopen();
    for (const auto& [partition, want] : expected) {
      c.Equal(c.Take(c.transport().End("durable", partition)).offset, want.size(), "the end");
      const auto got = c.Read("durable", partition, 0, want.size());
      for (size_t i = 0; i < want.size(); ++i) c.Expect(got[i].view().data == want[i], "kept");
    }
  }
  bool found = false;
  for (const auto& topic : c.Take(c.transport().Topics())) {
    found |= topic.name == "durable" && topic.partitions == 2;
  }
  c.Expect(found, "the topic is listed after reopening");
}

void SeekAndReplay(Case& c) {
  constexpr uint64_t kEvents = 300;
  c.Topic("replay");
  std::vector<events::Event> batch;
  for (uint64_t i = 0; i < kEvents; ++i) batch.push_back(DataEvent(Number(i)));
  c.Take(c.transport().Publish("replay", batch));
  Random random(9);
  auto subscription = c.Take(c.transport().Subscribe("replay", 0, 0));
  for (int round = 0; round < 60; ++round) {
    const uint64_t from = Below(random, kEvents);
    const uint64_t count = 1 + Below(random, kEvents - from);
    subscription->Seek(from);
    PollLimits limits;
    limits.messages_max = 1 + Below(random, 50);
    std::vector<std::string> got;
    MessageBatch polled;
    while (got.size() < count) {
      c.PollSome(*subscription, limits, &polled);
      c.Expect(polled.messages.size() <= limits.messages_max, "as many as asked for, at most");
      for (const Message& message : polled.messages) {
        c.Equal(message.offset, from + got.size(), "offsets follow one another");
        got.emplace_back(message.event.data);
        c.Equal(got.back(), Number(message.offset), "the event of that offset");
      }
    }
  }
  // A subscription may begin anywhere; behind the end it waits for what comes.
  for (const uint64_t from : {uint64_t{0}, kEvents / 2, kEvents - 1}) {
    c.Equal(c.Read("replay", 0, from, kEvents - from).size(), kEvents - from, "from an offset");
  }
  auto behind = c.Take(c.transport().Subscribe("replay", 0, kEvents));
  c.Nothing(*behind);
  c.Take(c.transport().Publish("replay", {DataEvent("new")}));
  c.Expect(c.Read(*behind, kEvents, 1)[0].view().data == "new", "what is published later");
}

void IndependentSubscribers(Case& c) {
  c.Topic("many");
  std::vector<events::Event> batch;
  for (uint64_t i = 0; i < 100; ++i) batch.push_back(DataEvent(Number(i)));
  c.Take(c.transport().Publish("many", batch));
  std::vector<std::unique_ptr<Subscription>> subscriptions;
  std::vector<uint64_t> next;
  for (uint64_t i = 0; i < 5; ++i) {
    next.push_back(i * 10);
    subscriptions.push_back(c.Take(c.transport().Subscribe("many", 0, next.back())));
  }
  // In turns, with different steps: none moves another.
  MessageBatch polled;
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < subscriptions.size(); ++i) {
      if (next[i] == 100) continue;
      more = true;
      PollLimits limits;
      limits.messages_max = i + 1;
      c.Take(subscriptions[i]->Poll(limits, &polled));
      for (const Message& message : polled.messages) {
        c.Equal(message.offset, next[i]++, "each has its own place");
        c.Expect(message.event.data == Number(message.offset), "each reads everything");
      }
    }
  }
  subscriptions[0].reset();
  subscriptions[1]->Seek(50);
  c.Expect(c.Read(*subscriptions[1], 50, 1)[0].view().data == "50", "one that ends disturbs nobody");
}

void AttributesComeOutAsTheyWentIn(Case& c) {
  c.Topic("attributes", 1);
  const uint64_t seed = test::Seed(123);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  std::vector<events::Event> in;
  for (int i = 0; i < 200; ++i) {
    std::vector<std::string> texts;
    texts.reserve(64);
    const auto text = [&]() -> std::string_view {
      // Often absent; otherwise any UTF-8.
      if (Below(random, 3) == 0) return {};
      texts.push_back(test::RandomText(random, 1 + Below(random, 30)));
      return texts.back();
    };
    events::EventView view;
    view.type = "test.happened.v1";
    view.time_us = static_cast<int64_t>(Below(random, 4'000'000'000'000'000)) - 2'000'000'000'000'000;
    view.id = text();
    view.source = text();
    view.subject = i % 10 == 0 ? std::string_view("attributes/0") : text();
    view.partitionkey = text();
    view.dataschema = text();
    view.correlationid = text();
    view.causationid = text();
    view.traceparent = text();
    if (Below(random, 3) == 0) view.streamversion = random();
    if (Below(random, 3) == 0) view.position = random();
    if (Below(random, 3) == 0) {
      view.cause = events::Cause{"some.topic", static_cast<uint32_t>(Below(random, 9)), random(),
                                 2, 3};
    }
    if (Below(random, 4) == 0) view.datacontenttype = events::kJsonContentType;
    std::set<std::string> names;
    for (uint64_t left = Below(random, 6); left > 0; --left) {
      names.insert("ext" + Number(Below(random, 100)));
    }
    for (const auto& name : names) view.extensions.emplace_back(name, "");
    for (auto& extension : view.extensions) {
      // Text, or any bytes.
      const size_t size = 1 + Below(random, 20);
      texts.push_back(Below(random, 2) == 0 ? test::RandomText(random, size)
                                            : test::RandomBytes(random, size));
      extension.second = texts.back();
    }
    const std::string data = test::RandomBytes(random, Below(random, 300));
    view.data = data;
    in.emplace_back(view);
  }
  c.Take(c.transport().Publish("attributes", in));
  c.harness().Reopen();
  const auto out = c.Read("attributes", 0, 0, in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    CAPTURE(i);
    test::CheckSame(out[i].view(), in[i].view());
    c.Expect(true, "");
  }
}

void DataOfAnySize(Case& c) {
  c.Topic("sizes");
  Random random(77);
  std::vector<std::string> in;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{255}, size_t{256}, size_t{65'535},
                            size_t{65'536}, size_t{262'143}, size_t{262'144}, size_t{1} << 20,
                            (size_t{8} << 20) - 1, size_t{8} << 20}) {
    std::string data = test::RandomBytes(random, size);
    if (size == 256) std::iota(data.begin(), data.end(), '\0');  // every byte there is
    in.push_back(data);
    c.Take(c.transport().Publish("sizes", {DataEvent(data)}));
  }
  c.harness().Reopen();
  const auto out = c.Read("sizes", 0, 0, in.size());
  for (size_t i = 0; i < in.size(); ++i) c.Expect(out[i].view().data == in[i], "byte for byte");
}

void SlowConsumer(Case& c) {
  c.Topic("slow");
  Random random(5);
  std::vector<std::string> in;
  for (int i = 0; i < 50; ++i) {
    std::vector<events::Event> batch;
    for (int j = 0; j < 20; ++j) {
      in.push_back(test::RandomBytes(random, Below(random, 4000)));
      batch.push_back(DataEvent(in.back()));
    }
    c.Take(c.transport().Publish("slow", batch));
  }
  auto subscription = c.Take(c.transport().Subscribe("slow", 0, 0));
  PollLimits limits;
  limits.messages_max = 13;
  limits.bytes_max = 10'000;
  size_t read = 0;
  MessageBatch batch;
  bool rested = c.harness().broker() == nullptr;
  while (read < in.size()) {
    if (read > in.size() / 10 && !std::exchange(rested, true)) {
      // Longer than the harness lets a connection be silent, with more left than is sent ahead.
      constexpr auto kRest = std::chrono::seconds(6);
      std::this_thread::sleep_for(kRest);
    }
    c.PollSome(*subscription, limits, &batch);
    c.Expect(batch.messages.size() <= limits.messages_max, "bounded by messages");
    size_t bytes = 0;
    for (const Message& message : batch.messages) {
      c.Expect(message.event.data == in[read++], "nothing is left out");
      bytes += message.event.data.size();
    }
    // The last one may step over the bound; what is before it may not.
    c.Expect(bytes - batch.messages.back().event.data.size() < limits.bytes_max, "bounded by bytes");
  }
  // At least one, however small the bound.
  subscription->Seek(0);
  limits.bytes_max = 1;
  c.PollSome(*subscription, limits, &batch);
  c.Equal(batch.messages.size(), size_t{1}, "one message, whatever its size");
  // A batch outlives the next poll's messages only as long as it is held: views stay good until Clear.
  MessageBatch held;
  subscription->Seek(0);
  c.PollSome(*subscription, {}, &held);
  auto other = c.Take(c.transport().Subscribe("slow", 0, 500));
  c.PollSome(*other, {}, &batch);
  c.Take(subscription->Poll({}, &batch));
  subscription.reset();
  for (const Message& message : held.messages) {
    c.Expect(message.event.data == in[message.offset], "pinned");
  }
}

void ThousandTopics(Case& c) {
  constexpr int kTopics = 1000;
  const uint32_t most = c.transport().features().topics_max;
  const int topics = most == 0 ? kTopics : std::min<int>(kTopics, static_cast<int>(most));
  for (int i = 0; i < topics; ++i) c.Topic("topic-" + std::to_string(i));
  for (int i = 0; i < topics; i += 10) {
    c.Take(c.transport().Publish("topic-" + std::to_string(i), {DataEvent(std::to_string(i))}));
  }
  c.harness().Reopen();
  c.Expect(c.Take(c.transport().Topics()).size() >= static_cast<size_t>(topics), "all are listed");
  for (int i = 0; i < topics; ++i) {
    const std::string topic = "topic-" + std::to_string(i);
    c.Equal(c.Take(c.transport().End(topic, 0)).offset, i % 10 == 0 ? 1u : 0u, topic);
    if (i % 100 == 0) c.Expect(c.Read(topic, 0, 0, 1)[0].view().data == std::to_string(i), "its own");
  }
}

void RefusedClearly(Case& c) {
  c.Refused(c.transport().Publish("nowhere", {DataEvent("x")}), ErrorClass::kNotFound, "nowhere");
  c.Refused(c.transport().PublishTo("nowhere", 0, {DataEvent("x")}), ErrorClass::kNotFound,
            "nowhere");
  c.Refused(c.transport().Subscribe("nowhere", 0, 0), ErrorClass::kNotFound, "nowhere");
  c.Refused(c.transport().End("nowhere", 0), ErrorClass::kNotFound, "nowhere");
  c.Topic("three", 3);
  c.Topic("three", 3);
  c.Refused(c.transport().CreateTopic("three", 4), ErrorClass::kConflict, "three");
  c.Refused(c.transport().CreateTopic("not a name", 1), ErrorClass::kInvalid, "not a name");
  c.Refused(c.transport().CreateTopic("", 1), ErrorClass::kInvalid, "topic name");
  c.Refused(c.transport().Subscribe("three", 3, 0), ErrorClass::kNotFound, "3");
  c.Refused(c.transport().End("three", 3), ErrorClass::kNotFound, "3");
  c.Refused(c.transport().PublishTo("three", 3, {DataEvent("x")}), ErrorClass::kNotFound, "3");
  // Too large: the event, and with it its batch.
  const std::string data(c.transport().features().message_bytes_max + 1, 'x');
  c.Refused(c.transport().Publish("three", {Keyed("k", "fine"), Keyed("k", data)}),
            ErrorClass::kInvalid, Number(data.size()));
  c.Refused(c.transport().PublishTo("three", 0, {Keyed("k", data)}), ErrorClass::kInvalid,
            Number(data.size()));
  {
    events::EventView view;
    view.type = "test.happened.v1";
    const std::string subject(events::kAttributeBytesMax + 1, 's');
    view.subject = subject;
    c.Refused(c.transport().Publish("three", {events::Event(view)}), ErrorClass::kInvalid,
              "subject");
    view.subject = "s";
    view.extensions.assign(events::kExtensionsMax + 1, {"e", "v"});
    c.Refused(c.transport().Publish("three", {events::Event(view)}), ErrorClass::kInvalid,
              "extensions");
    view.extensions = {{"Not-A-Name", "v"}};
    c.Refused(c.transport().Publish("three", {events::Event(view)}), ErrorClass::kInvalid,
              "Not-A-Name");
  }
  for (uint32_t partition = 0; partition < 3; ++partition) {
    c.Equal(c.Take(c.transport().End("three", partition)).offset, uint64_t{0}, "nothing was kept");
  }
  c.Expect(c.Take(c.transport().Publish("three", {})).empty(), "nothing to publish is no error");
  c.Take(c.transport().CreateTopic("owned", 1, {.owner = "its owner"}));
  c.Refused(c.transport().Publish("owned", {DataEvent("x")}), ErrorClass::kConflict, "owned");
  c.Equal(c.Take(c.transport().End("owned", 0)).offset, uint64_t{0}, "nothing was kept");
  c.Take(c.transport().PublishTo("owned", 0, {DataEvent("x")}));
  c.Equal(c.Take(c.transport().End("owned", 0)).offset, uint64_t{1}, "its owner may");
}

// What a transport cannot take it refuses by name, and what it can it takes.
void WithinItsFeatures(Case& c) {
  const bus::Features features = c.transport().features();
  if (features.number_words) {
    c.Topic("numbered.0");
  } else {
    c.Refused(c.transport().CreateTopic("numbered.0", 1), ErrorClass::kInvalid, "\"0\" is a number");
    c.Refused(c.transport().Publish("numbered.0", {DataEvent("x")}), ErrorClass::kNotFound, "numbered.0");
  }
  c.Topic("within");
  events::EventView view;
  view.type = "test.happened.v1";
  view.source = "//test";
  view.id = "1";
  const std::string value(events::kAttributeBytesMax, 'v');
  std::vector<std::string> names;
  for (size_t i = 0; i < events::kExtensionsMax; ++i) names.push_back("e" + std::to_string(i));
  for (const auto& name : names) view.extensions.emplace_back(name, value);
  if (features.attributes_bytes_max > 0) {
    c.Refused(c.transport().Publish("within", {events::Event(view)}), ErrorClass::kInvalid,
              std::to_string(features.attributes_bytes_max));
    view.extensions.resize(features.attributes_bytes_max / (value.size() + 64));
  }
  c.Take(c.transport().Publish("within", {events::Event(view)}));
  c.Expect(c.Read("within", 0, 0, 1).front().view().extensions.size() == view.extensions.size(),
           "as many as were sent");
  c.Equal(c.Take(c.transport().End("within", 0)).offset, uint64_t{1}, "what was refused is not there");
}

void PublishToAPartition(Case& c) {
  constexpr uint32_t kPartitions = 3;
  c.Topic("relayed", kPartitions);
  uint64_t n = 0;
  for (uint32_t partition = 0; partition < kPartitions; ++partition) {
    for (uint64_t round = 0; round < 5; ++round) {
      // Whatever their keys are.
      c.Equal(c.Take(c.transport().End("relayed", partition)).offset, 2 * round,
              "the partition's end");
      c.Take(c.transport().PublishTo(
          "relayed", partition, {Keyed("k" + Number(n), Number(n)), Keyed("k", Number(n + 1))}));
      n += 2;
    }
  }
  n = 0;
  for (uint32_t partition = 0; partition < kPartitions; ++partition) {
    for (const auto& event : c.Read("relayed", partition, 0, 10)) {
      c.Expect(event.view().data == Number(n++), "in order, and all of them");
    }
  }
  c.Refused(c.transport().PublishTo("relayed", kPartitions, {DataEvent("x")}),
            ErrorClass::kNotFound, "3");
  c.Take(c.transport().PublishTo("relayed", 0, {}));
}

void LiveTail(Case& c) {
  constexpr uint64_t kEvents = 3000;
  constexpr int kPublishers = 2;
  c.Topic("live");
  c.Topic("noise");  // what other topics do disturbs nothing
  std::atomic<bool> published{false};
  std::atomic<int> errors{0};
  std::vector<std::vector<std::string>> seen(3);
  {
    std::vector<std::jthread> threads;
    for (size_t reader = 0; reader < seen.size(); ++reader) {
      threads.emplace_back([&, reader] {
        if (reader == 2) {
          while (c.transport().End("live", 0)->offset < kEvents / 2) std::this_thread::yield();
        }
        auto subscription = c.transport().Subscribe("live", 0, 0);
        if (!subscription) {
          ++errors;
          return;
        }
        MessageBatch batch;
        PollLimits limits;
        if (reader == 1) limits.messages_max = 3;
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (seen[reader].size() < kEvents && std::chrono::steady_clock::now() < deadline) {
          if (!(*subscription)->Poll(limits, &batch)) ++errors;
          for (const Message& message : batch.messages) {
            if (message.offset != seen[reader].size()) ++errors;
            seen[reader].emplace_back(message.event.data);
          }
          // What the end says is there can be read without waiting for it.
          if (batch.messages.empty() && c.transport().features().end_at_once) {
            const auto end = c.transport().End("live", 0);
            PollLimits at_once;
            at_once.timeout = std::chrono::milliseconds(0);
            if (!(*subscription)->Poll(at_once, &batch)) ++errors;
            if (batch.messages.empty() && end->offset > seen[reader].size()) ++errors;
            for (const Message& message : batch.messages) {
              seen[reader].emplace_back(message.event.data);
            }
          }
        }
      });
    }
    for (int publisher = 0; publisher < kPublishers; ++publisher) {
      threads.emplace_back([&, publisher] {
        Random random(static_cast<uint64_t>(publisher));
        for (uint64_t i = 0; i < kEvents / kPublishers;) {
          std::vector<events::Event> batch;
          for (uint64_t left = 1 + Below(random, 20); left > 0 && i < kEvents / kPublishers;
               --left, ++i) {
            batch.push_back(DataEvent(Number(static_cast<uint64_t>(publisher)) + "/" + Number(i)));
          }
          if (!c.transport().Publish("live", batch)) ++errors;
          if (!c.transport().Publish("noise", {DataEvent("noise")})) ++errors;
        }
        published = true;
      });
    }
  }
  c.Equal(errors.load(), 0, "no error, no gap");
  c.Expect(published, "published");
  std::map<char, uint64_t> next;
  for (const std::string& data : seen[0]) {
    c.Expect(data == std::string(1, data[0]) + "/" + Number(next[data[0]]++), "each publisher's order");
  }
  for (const auto& other : seen) c.Expect(other == seen[0], "everybody sees the same order");
  c.Equal(seen[0].size(), kEvents, "everything, once");
}

void WaitsNoLongerThanAsked(Case& c) {
  c.Topic("quiet");
  auto subscription = c.Take(c.transport().Subscribe("quiet", 0, 0));
  PollLimits limits;
  MessageBatch batch;
  limits.timeout = std::chrono::milliseconds(0);
  c.Take(subscription->Poll(limits, &batch));
  c.Expect(batch.messages.empty(), "nothing");
  limits.timeout = std::chrono::milliseconds(80);
  auto begun = std::chrono::steady_clock::now();
  c.Take(subscription->Poll(limits, &batch));
  auto took = std::chrono::steady_clock::now() - begun;
  c.Expect(took >= std::chrono::milliseconds(60) && took < std::chrono::seconds(20), "the timeout");
  // A message ends the wait, and so does Wake.
  limits.timeout = kPatience;
  begun = std::chrono::steady_clock::now();
  {
    std::jthread publisher([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      (void)c.transport().Publish("quiet", {DataEvent("x")});
    });
    c.Take(subscription->Poll(limits, &batch));
  }
  c.Equal(batch.messages.size(), size_t{1}, "the message");
  {
    std::atomic<bool> returned{false};
    std::jthread waker([&] {
      while (!returned) {
        subscription->Wake();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    });
    const auto status = subscription->Poll(limits, &batch);
    returned = true;
    c.Take(status);
  }
  c.Expect(batch.messages.empty(), "woken without a message");
  took = std::chrono::steady_clock::now() - begun;
  c.Expect(took < kPatience, "neither waited for its timeout");
}

// Traffic while the broker goes away and comes back: whoever tries again loses nothing, and order
// stays.
void BrokerAway(Case& c, const std::string& topic,
                const std::function<void(test::Broker*)>& disturb) {
  c.Topic(topic);
  constexpr uint64_t kAfterwards = 100;
  std::atomic<uint64_t> acknowledged{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> published{false};  // the publisher has ended
  std::atomic<int> wrong_errors{0};
  const auto good = [&](const auto& result) {
    if (!result && !result.error().Retryable()) {
      std::printf("%s\n", result.error().Text().c_str());
      ++wrong_errors;
    }
    return result.has_value();
  };
  std::vector<uint64_t> seen;
  {
    std::jthread publisher([&] {
      for (uint64_t i = 0; !stop; ++i) {
        while (!good(c.transport().Publish(topic, {DataEvent(Number(i))}))) {
          std::this_thread::sleep_for(kNothing);
          if (wrong_errors > 0) return;
        }
        acknowledged = i + 1;
      }
      published = true;
    });
    std::jthread reader([&] {
      auto subscription = c.transport().Subscribe(topic, 0, 0);
      if (!good(subscription)) {
        ++wrong_errors;
        return;
      }
      MessageBatch batch;
      const auto deadline = std::chrono::steady_clock::now() + 3 * kPatience;
      while (std::chrono::steady_clock::now() < deadline && wrong_errors == 0) {
        if (published && seen.size() >= acknowledged) return;
        if (!good((*subscription)->Poll({}, &batch))) continue;
        for (const Message& message : batch.messages) {
          const uint64_t number = std::stoull(std::string(message.event.data));
          // What was published again after a lost confirm comes twice.
          if (number == seen.size()) seen.push_back(number);
          if (number > seen.size()) ++wrong_errors;
        }
      }
    });
    while (acknowledged < kAfterwards && wrong_errors == 0) std::this_thread::sleep_for(kNothing);
    disturb(c.harness().broker());
    const uint64_t then = acknowledged;
    const auto deadline = std::chrono::steady_clock::now() + 2 * kPatience;
    while (acknowledged < then + kAfterwards && wrong_errors == 0 &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kNothing);
    }
    c.Expect(acknowledged >= then + kAfterwards, "it goes on when the broker is back");
    stop = true;
  }
  c.Equal(wrong_errors.load(), 0, "only errors that may be retried, and nothing out of order");
  c.Expect(seen.size() >= acknowledged, "everything that was acknowledged is there");
}

void BrokerStopped(Case& c) {
  BrokerAway(c, "stopped", [](test::Broker* broker) {
    broker->Run("stop");
    broker->Run("start");
  });
}
void BrokerKilled(Case& c) {
  BrokerAway(c, "killed", [](test::Broker* broker) {
    broker->Run("kill");
    broker->Run("start");
  });
}
void BrokerPaused(Case& c) {
  // For longer than every timeout.
  constexpr auto kPause = std::chrono::seconds(12);
  BrokerAway(c, "paused", [&](test::Broker* broker) {
    broker->Signal(SIGSTOP);
    std::this_thread::sleep_for(kPause);
    broker->Signal(SIGCONT);
  });
}

void ReplayFromATime(Case& c) {
  constexpr uint64_t kBefore = 20, kAfter = 10;
  constexpr auto kApart = std::chrono::milliseconds(1200);  // more than the least that a transport tells apart
  c.Topic("timed");
  const auto publish = [&](uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      c.Take(c.transport().Publish("timed", {test::DataEvent(Number(i))}));
    }
  };
  const int64_t before_us = core::SystemClock().NowUs();
  publish(kBefore);
  std::this_thread::sleep_for(kApart);
  const int64_t between_us = core::SystemClock().NowUs();
  std::this_thread::sleep_for(kApart);
  publish(kAfter);
  std::this_thread::sleep_for(kApart);
  const auto at = [&](int64_t time_us) { return c.Take(c.transport().OffsetAt("timed", 0, time_us)); };
  c.Equal(at(0), uint64_t{0}, "from the beginning of time");
  c.Equal(at(before_us), uint64_t{0}, "from before all");
  c.Equal(at(between_us), kBefore, "from between");
  c.Equal(at(core::SystemClock().NowUs()), kBefore + kAfter, "from behind all");
  c.Equal(c.Read("timed", 0, at(between_us), 1).front().view().data, Number(0), "what came after it");
  c.Refused(c.transport().OffsetAt("nowhere", 0, 0), ErrorClass::kNotFound, "nowhere");
  c.Refused(c.transport().OffsetAt("timed", 1, 0), ErrorClass::kNotFound, "timed");
}

// ---- groups

constexpr auto kGroupStep = std::chrono::milliseconds(20);  // of a poll, where several members take turns

using Partitions = std::set<uint32_t>;

// A member in this process: releases at once what it is asked to.
class Member {
 public:
  Member(Case& c, const std::string& topic, const std::string& instance)
      : c_(&c), membership_(c.Take(c.transport().Join(topic, "workers", instance))) {}

  const Partitions& Step(std::chrono::milliseconds timeout = kGroupStep) {
    auto polled = membership_->Poll(timeout);
    if (!polled && polled.error().Retryable()) return held_;
    const bus::Share share = c_->Take(std::move(polled));
    held_ = share.held;
    for (const uint32_t partition : share.to_release) {
      c_->Expect(share.held.contains(partition), "what is to be released is held");
      c_->Take(membership_->Release(partition));
      held_.erase(partition);
    }
    return held_;
  }
  const Partitions& held() const { return held_; }
  Membership& membership() { return *membership_; }

 private:
  Case* c_;
  std::unique_ptr<Membership> membership_;
  Partitions held_;
};

// Until the condition holds; what it took. The condition does the waiting.
std::chrono::duration<double> Until(Case& c, const std::string& what,
                                    const std::function<bool()>& condition) {
  const auto begun = std::chrono::steady_clock::now();
  bool holds;
  while (!(holds = condition()) && std::chrono::steady_clock::now() < begun + kPatience) {
  }
  c.Expect(holds, what);
  return std::chrono::steady_clock::now() - begun;
}

void Told(const char* what, std::chrono::duration<double> took) {
  std::printf("             %s after %.2f s\n", what, took.count());
}

MemberProcess Elsewhere(Case& c, const std::string& topic, const std::string& instance) {
  auto arguments = c.harness().from_elsewhere();
  arguments.insert(arguments.end(), {topic, "workers", instance});
  return MemberProcess(arguments);
}

Partitions All(uint32_t count) {
  Partitions all;
  for (uint32_t i = 0; i < count; ++i) all.insert(i);
  return all;
}

bool Disjoint(const std::vector<const Partitions*>& shares) {
  Partitions all;
  size_t count = 0;
  for (const auto* share : shares) {
    all.insert(share->begin(), share->end());
    count += share->size();
  }
  return count == all.size();
}

void GroupHeldOnce(Case& c) {
  constexpr uint32_t kPartitions = 4;
  const bool share = c.transport().features().groups_share;
  c.Topic("shared", kPartitions);
  c.Refused(c.transport().Join("nowhere", "workers", "a"), ErrorClass::kNotFound, "nowhere");
  c.Refused(c.transport().Join("shared", "no name", "a"), ErrorClass::kInvalid, "no name");
  c.Refused(c.transport().Join("shared", "workers", ""), ErrorClass::kInvalid, "member");
  Member a(c, "shared", "a");
  Until(c, "the first has all", [&] { return a.Step() == All(kPartitions); });
  c.Refused(a.membership().Release(0), ErrorClass::kInvalid, "0");
  c.Take(a.membership().Commit(0, 1));

  Member b(c, "shared", "b");
  const auto each_once = [&](const std::vector<Member*>& members, size_t most) {
    std::vector<const Partitions*> shares;
    size_t count = 0;
    bool fair = true;
    for (Member* member : members) {
      const auto& held = member->Step();
      shares.push_back(&held);
    }
    for (const auto* one : shares) {
      count += one->size();
      fair &= one->size() <= most;
    }
    c.Expect(Disjoint(shares), "none is held twice");
    return fair && count == kPartitions;
  };
  const size_t of_two = share ? kPartitions / 2 : kPartitions;
  Told("two members share", Until(c, "two share", [&] { return each_once({&a, &b}, of_two); }));
  c.Equal(a.held().size(), of_two, "the first's");
  {
    Member other(c, "shared", "c");
    Until(c, "three share", [&] { return each_once({&a, &b, &other}, of_two); });
  }
  // A share that is as it was told last is waited for; Wake ends the wait.
  const auto before = a.held();
  const auto begun = std::chrono::steady_clock::now();
  std::atomic<bool> returned{false};
  {
    std::jthread waker([&] {
      while (!returned) {
        a.membership().Wake();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    });
    a.Step(kPatience);
    returned = true;
  }
  c.Expect(std::chrono::steady_clock::now() < begun + kPatience, "woken");
  c.Expect(!before.empty(), "it had some");
}

void GroupOneName(Case& c) {
  c.Topic("named", 2);
  Member older(c, "named", "same");
  Until(c, "it holds all", [&] { return older.Step() == All(2); });
  auto newer = c.transport().Join("named", "workers", "same");
  if (!newer) {
    c.Refused(newer, ErrorClass::kConflict, "same");
    older.Step();
    c.Equal(older.held(), All(2), "the older one goes on");
    return;
  }
  Result<bus::Share> told;
  Until(c, "the older one ends", [&] {
    (void)(*newer)->Poll(kGroupStep);
    told = older.membership().Poll(kGroupStep);
    return !told;
  });
  c.Refused(told, ErrorClass::kConflict, "same");
  c.Refused(older.membership().Commit(0, 1), ErrorClass::kConflict, "same");
  bus::Share share;
  Until(c, "the newer one has all", [&] {
    if (auto polled = (*newer)->Poll(kGroupStep)) share = *polled;
    return share.held == All(2);
  });
}

void GroupHandOver(Case& c) {
  constexpr uint32_t kPartitions = 4;
  c.Topic("handed", kPartitions);
  if (!c.transport().features().groups_share) {
    auto first = std::make_unique<Member>(c, "handed", "first");
    Member second(c, "handed", "second");
    Until(c, "the first has all", [&] { return first->Step() == All(kPartitions); });
    c.Expect(second.Step().empty(), "the second has none");
    first.reset();
    Until(c, "the second has all", [&] { return second.Step() == All(kPartitions); });
    return;
  }
  Member stays(c, "handed", "stays");
  const auto has_all = [&] { return stays.Step() == All(kPartitions); };
  Until(c, "the first has all", has_all);
  const auto shared = [&](MemberProcess& other) {
    return [&] {
      stays.Step();
      c.Equal(other.error(), std::string(), "no error");
      c.Expect(Disjoint({&stays.held(), &other.held()}), "none is held twice");
      return stays.held().size() == kPartitions / 2 && other.held().size() == kPartitions / 2;
    };
  };
  {
    auto killed = Elsewhere(c, "handed", "killed");
    Told("a new member has its share", Until(c, "two share", shared(killed)));
    killed.Signal(SIGKILL);
    Told("a killed member is replaced", Until(c, "all are taken over", has_all));
  }
  {
    auto left = Elsewhere(c, "handed", "left");
    Until(c, "two share", shared(left));
    left.Leave();
    Told("a member that left is replaced", Until(c, "all are taken over", has_all));
  }
  auto frozen = Elsewhere(c, "handed", "frozen");
  Until(c, "two share", shared(frozen));
  frozen.Signal(SIGSTOP);
  Told("a frozen member is replaced", Until(c, "all are taken over", has_all));
  // It cannot know yet. When it goes on, it learns that it has lost its share, and gets one again.
  frozen.Signal(SIGCONT);
  Told("a frozen member knows", Until(c, "it has lost all", [&] {
         stays.Step();
         return Disjoint({&stays.held(), &frozen.held()});
       }));
  Told("a frozen member has a share again", Until(c, "two share again", shared(frozen)));
}

void GroupComesBack(Case& c) {
  constexpr uint32_t kPartitions = 4;
  constexpr auto kAtOnce = std::chrono::seconds(5);  // less than any session
  c.Topic("returned", kPartitions);
  if (!c.transport().features().groups_share) {
    for (int round = 0; round < 2; ++round) {
      Member one(c, "returned", "one");
      Until(c, "it has all, each time", [&] { return one.Step() == All(kPartitions); });
    }
    return;
  }
  Member stays(c, "returned", "stays");
  Until(c, "the first has all", [&] { return stays.Step() == All(kPartitions); });
  Partitions before;
  const auto shared = [&](MemberProcess& other) {
    return [&] {
      stays.Step();
      c.Equal(other.error(), std::string(), "no error");
      return stays.held().size() == kPartitions / 2 && other.held().size() == kPartitions / 2;
    };
  };
  {
    auto back = Elsewhere(c, "returned", "back");
    Until(c, "two share", shared(back));
    before = back.held();
    back.Signal(SIGKILL);
  }
  const Partitions others = stays.held();
  auto back = Elsewhere(c, "returned", "back");
  const auto took = Until(c, "two share again", [&] {
    const bool holds = shared(back)();
    if (c.transport().features().groups_remember) {
      c.Equal(stays.held(), others, "nobody else is disturbed");
    }
    return holds;
  });
  Told("a member that came back has its share", took);
  if (c.transport().features().groups_remember) {
    c.Equal(back.held(), before, "the same partitions");
    c.Expect(took < kAtOnce, "at once");
  }

  // One that ends when it is to give some back, and has not, leaves none without an owner.
  c.Topic("given", kPartitions);
  auto gives = c.Take(c.transport().Join("given", "workers", "gives"));
  bus::Share share;
  const auto polled = [&] {
    if (auto now = gives->Poll(kGroupStep)) share = *std::move(now);
    return share;
  };
  Until(c, "the first has all", [&] { return polled().held == All(kPartitions); });
  Member takes(c, "given", "takes");
  Until(c, "it is to give some back", [&] {
    takes.Step();
    return !polled().to_release.empty();
  });
  gives.reset();
  Member again(c, "given", "gives");
  Told("a member that was giving back has its share", Until(c, "two share all", [&] {
         takes.Step();
         again.Step();
         return takes.held().size() == kPartitions / 2 && again.held().size() == kPartitions / 2;
       }));
  c.Expect(Disjoint({&takes.held(), &again.held()}), "none is held twice");
}

void GroupBrokerAway(Case& c) {
  constexpr uint32_t kPartitions = 2;
  c.Topic("away", kPartitions);
  Member one(c, "away", "one");
  Until(c, "it has all", [&] { return one.Step() == All(kPartitions); });
  // Frozen, it keeps its connections open, and says nothing.
  for (const std::string verb : {"stop", "kill", "pause"}) {
    if (verb == "pause") {
      c.harness().broker()->Signal(SIGSTOP);
    } else {
      c.harness().broker()->Run(verb);
    }
    Told("a member without a broker knows", Until(c, "all is lost", [&] {
           return one.Step().empty();
         }));
    Result<bus::Share> polled;
    Until(c, "the error says why", [&] { return !(polled = one.membership().Poll(kGroupStep)); });
    c.Refused(polled, ErrorClass::kUnavailable, "");
    if (verb == "pause") {
      c.harness().broker()->Signal(SIGCONT);
    } else {
      c.harness().broker()->Run("start");
    }
    Told("it has its share again", Until(c, "it has all again", [&] {
           return one.Step() == All(kPartitions);
         }));
  }
}

// What a reader had not committed when it went, the next one reads again.
void Redelivery(Case& c) {
  constexpr uint64_t kEvents = 10, kDone = 6;
  c.Topic("again");
  std::vector<events::Event> batch;
  for (uint64_t i = 0; i < kEvents; ++i) batch.push_back(DataEvent(Number(i)));
  c.Take(c.transport().Publish("again", batch));
  const bool shows = c.transport().features().groups_show_lag;
  c.Equal(c.harness().Committed("again", "workers", 0).has_value(), false, "nothing yet");
  uint64_t position = 0;  // the shard's
  {
    Member reader(c, "again", "reader");
    Until(c, "it holds the partition", [&] { return reader.Step() == All(1); });
    c.Read("again", 0, position, kEvents);  // all of them, and of these some are done with
    position = kDone;
    c.Take(reader.membership().Commit(0, position));
    // The last word counts, and so does nobody who does not hold the partition.
    Member standby(c, "again", "standby");
    c.Take(standby.membership().Commit(0, kEvents));
    c.Expect(standby.Step().empty(), "it holds nothing");
    c.Take(standby.membership().Commit(0, kEvents));
  }
  if (shows) {
    Until(c, "the group's lag can be seen", [&] {
      return c.harness().Committed("again", "workers", 0) == std::optional(kDone);
    });
  }
  Member reader(c, "again", "reader");
  Until(c, "it holds the partition again", [&] { return reader.Step() == All(1); });
  const auto rest = c.Read("again", 0, position, kEvents - position);
  c.Expect(rest.front().view().data == Number(kDone), "from the first that was not done");
  c.Take(reader.membership().Commit(0, kEvents));
  if (shows) {
    Until(c, "no lag is left", [&] {
      return c.harness().Committed("again", "workers", 0) == std::optional(kEvents);
    });
  }
}

// What the runtime makes of a transport: questions and answers by topics.
void RequestAndReply(Case& c) {
  constexpr uint32_t kPartitions = 2;
  constexpr int kRequests = 100;
  c.Topic("questions", kPartitions);
  const auto answer = [](const events::EventView& request) -> Result<events::Event> {
    if (request.data == "refuse") return Fail(ErrorClass::kConflict, "no", "ask nicely");
    return DataEvent("re: " + std::string(request.data));
  };
  const auto question = [](const std::string& data) {
    test::EventParts parts;
    parts.id = "question " + data;
    parts.data = data;
    return test::MakeEvent(parts);
  };
  runtime::AskOptions patient;
  patient.timeout = kPatience;
  {
    const auto requester = c.Take(runtime::Requester::Open(&c.transport(), "one"));
    const auto other = c.Take(runtime::Requester::Open(&c.transport(), "two"));
    // Asked before anybody is there to answer.
    std::atomic<int> answered{0};
    for (uint32_t partition = 0; partition < kPartitions; ++partition) {
      patient.partition = partition;
      requester->AskAsync("questions", question("early"), patient,
                          [&](const Result<events::Event>& reply) {
                            if (reply && reply->view().data == "re: early") ++answered;
                          });
      patient.partition.reset();
      // Its id is taken until the answer is there.
      c.Refused(requester->Ask("questions", question("early"), patient),
                ErrorClass::kConflict, "question early");
      runtime::ResponderOptions options;
      options.topic = "questions";
      options.partition = partition;
      const auto responder = c.Take(runtime::Responder::Start(&c.transport(), options, answer));
      const auto deadline = std::chrono::steady_clock::now() + kPatience;
      while (answered < static_cast<int>(partition) + 1 &&
             std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(kNothing);
      }
      c.Equal(answered.load(), static_cast<int>(partition) + 1, "what waited is answered");
    }
    std::vector<std::unique_ptr<runtime::Responder>> responders;
    for (uint32_t partition = 0; partition < kPartitions; ++partition) {
      runtime::ResponderOptions options;
      options.topic = "questions";
      options.partition = partition;
      responders.push_back(c.Take(runtime::Responder::Start(&c.transport(), options, answer)));
    }
    const auto ask = [&](runtime::Requester* by, const std::string& data) {
      return by->Ask("questions", question(data), patient);
    };
    for (int i = 0; i < kRequests; ++i) {
      const std::string data = Number(static_cast<uint64_t>(i));
      runtime::Requester* const by = i % 2 == 0 ? requester.get() : other.get();
      c.Expect(c.Take(ask(by, data)).view().data == "re: " + data, "each has its answer");
    }
    c.Refused(ask(requester.get(), "refuse"), ErrorClass::kConflict, "ask nicely");
    responders.clear();
    patient.timeout = kNothing;
    c.Refused(ask(requester.get(), "late"), ErrorClass::kUnavailable, "questions");
    c.Refused(requester->Ask("nowhere", question("x")), ErrorClass::kNotFound, "nowhere");
  }
  // The same instance again, whose reply topic is there.
  c.harness().Reopen();
  const auto requester = c.Take(runtime::Requester::Open(&c.transport(), "one"));
  runtime::ResponderOptions options;
  options.topic = "questions";
  const auto responder = c.Take(runtime::Responder::Start(&c.transport(), options, answer));
  patient.timeout = kPatience;
  patient.partition = 0;
  c.Expect(c.Take(requester->Ask("questions", question("new"), patient)).view().data == "re: new",
           "after a reopening");
}

struct NamedCase {
  const char* name;
  void (*run)(Case&);
  bool bus::Features::*needs = nullptr;
  bool needs_broker = false;
  bool brief_timeouts = needs_broker;
};

constexpr NamedCase kCases[] = {
    {"order per partition", OrderPerPartition},
    {"partition by key", PartitionByKey},
    {"durable over reopening", DurableOverReopen},
    {"seek and replay", SeekAndReplay, &bus::Features::seek},
    {"replay from a time", ReplayFromATime, &bus::Features::seek_by_time},
    {"independent subscribers", IndependentSubscribers, &bus::Features::seek},
    {"attributes come out as they went in", AttributesComeOutAsTheyWentIn},
    {"data of any size", DataOfAnySize},
    {"slow consumer", SlowConsumer, nullptr, false, true},
    {"a thousand topics", ThousandTopics},
    {"refused clearly", RefusedClearly},
    {"within its features", WithinItsFeatures},
    {"publish to a partition", PublishToAPartition},
    {"live tail", LiveTail},
    {"waits no longer than asked", WaitsNoLongerThanAsked},
    {"group: every partition is held once", GroupHeldOnce},
    {"group: two members of one name", GroupOneName},
    {"group: hand-over when a member leaves or dies", GroupHandOver},
    {"group: a member that comes back", GroupComesBack},
    {"redelivery", Redelivery},
    {"group: the broker goes away and comes back", GroupBrokerAway, nullptr, true},
    {"request and reply", RequestAndReply},
    {"ledger: killed and its shard deleted at every publish boundary", KilledAtEveryBoundary},
    {"ledger: its owner frozen at every step", OwnerFrozenAtEveryStep},
    {"broker stopped in mid-traffic", BrokerStopped, nullptr, true},
    {"broker killed in mid-traffic", BrokerKilled, nullptr, true},
    {"broker paused in mid-traffic", BrokerPaused, nullptr, true},
};

// What a case asks of `Features` to know what to expect: a flag that fell would weaken it without a word.
struct NamedFeature {
  const char* name;
  bool (*has)(const bus::Features&);
};
constexpr NamedFeature kFeatures[] = {
    {"feature: a thousand topics",
     [](const bus::Features& f) { return f.topics_max == 0 || f.topics_max >= 1000; }},
    {"feature: data of 8 MiB",
     [](const bus::Features& f) { return f.message_bytes_max >= size_t{8} << 20; }},
    {"feature: the end at once", [](const bus::Features& f) { return f.end_at_once; }},
    {"feature: retention", [](const bus::Features& f) { return f.retention; }},
    {"feature: all attributes of the envelope",
     [](const bus::Features& f) { return f.attributes_bytes_max == 0; }},
    {"feature: words that are numbers", [](const bus::Features& f) { return f.number_words; }},
    {"feature: groups share", [](const bus::Features& f) { return f.groups_share; }},
    {"feature: groups remember", [](const bus::Features& f) { return f.groups_remember; }},
    {"feature: groups show lag", [](const bus::Features& f) { return f.groups_show_lag; }},
};

}  // namespace

void RunSuite(const TransportUnderTest& transport,
              const std::function<void(const CaseResult&)>& on_result) {
  const char* const wanted = std::getenv("LEAT_CASE");
  if (wanted == nullptr) {
    const auto harness = transport.make(false);
    for (const NamedFeature& feature : kFeatures) {
      CaseResult result;
      result.name = feature.name;
      result.ran = feature.has(harness->transport().features());
      result.assertions = result.ran ? 1 : 0;
      result.skipped = "not among its features";
      on_result(result);
    }
  }
  for (const NamedCase& named : kCases) {
    if (wanted != nullptr && std::string_view(named.name).find(wanted) == std::string_view::npos)
      continue;
    CaseResult result;
    result.name = named.name;
    const auto harness = transport.make(named.brief_timeouts);
    INFO(transport.name, ": ", std::string(named.name));
    if (named.needs != nullptr && !(harness->transport().features().*named.needs)) {
      result.skipped = "not among its features";
    } else if (named.needs_broker && harness->broker() == nullptr) {
      result.skipped = "it has no broker";
    } else {
      Case one(harness.get(), &result.assertions);
      const auto begun = std::chrono::steady_clock::now();
      named.run(one);
      result.took = std::chrono::steady_clock::now() - begun;
      result.ran = true;
    }
    on_result(result);
  }
}

}  // namespace leat::conformance
