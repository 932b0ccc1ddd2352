// What the embedded transport has beyond the conformance suite: mounted logs and owned topics.
#include <doctest/doctest.h>

#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "bus/partitioner.h"
#include "runtime/shard.h"
#include "tests/support/test_support.h"

namespace leat::bus {
namespace {

using test::DataEvent;
using test::Must;
using test::TempFolder;

std::unique_ptr<runtime::Shard> OpenShard(const std::string& path) {
  runtime::ShardOptions options;
  options.path = path;
  options.name = "test-0";
  options.has_log = true;
  options.resources = test::SmallResources();
  return Must(runtime::Shard::Open(options));
}

void Add(runtime::Shard& shard, std::string_view stream, std::string_view data) {
  Must(shard.log()->Add(stream, DataEvent(data).view()));
  Must(shard.Commit(true));
}

TEST_CASE("a mounted log is a topic") {
  const TempFolder temp;
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  const auto shard = OpenShard(temp.Sub("shard"));
  Add(*shard, "s", "0");
  Must(transport->Mount("facts", 0, "test", shard->log()));
  Add(*shard, "s", "1");

  const auto end = Must(transport->End("facts", 0));
  CHECK(end.offset == 2);
  CHECK(end.incarnation == shard->log()->incarnation());
  {
    const auto subscription = Must(transport->Subscribe("facts", 0, 0));
    MessageBatch batch;
    Must(subscription->Poll({}, &batch));
    REQUIRE(batch.messages.size() == 2);
    CHECK(batch.messages[1].offset == 1);
    CHECK(batch.messages[1].event.data == "1");
    CHECK(batch.messages[1].event.source == "test");
    CHECK(batch.messages[1].event.subject == "s");
    CHECK(batch.messages[1].event.streamversion == 2);
    // Live.
    std::jthread writer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      Add(*shard, "s", "2");
    });
    PollLimits limits;
    limits.timeout = std::chrono::seconds(30);
    Must(subscription->Poll(limits, &batch));
    REQUIRE(batch.messages.size() == 1);
    CHECK(batch.messages[0].event.data == "2");
    // At least one message, whatever the limits.
    subscription->Seek(0);
    limits.bytes_max = 0;
    limits.messages_max = 0;
    Must(subscription->Poll(limits, &batch));
    CHECK(batch.messages.size() == 1);
  }

  // Only its shard writes it.
  CHECK(test::ClassOf(transport->Publish("facts", {DataEvent("x")})) == ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->PublishTo("facts", 0, {DataEvent("x")})) ==
        ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->CreateTopic("facts", 1)) == ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->CreateTopic("facts", 1, {.owner = "other"})) == ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->Mount("facts", 1, "other", shard->log())) ==
        ErrorClass::kConflict);
  const auto another = OpenShard(temp.Sub("another"));
  CHECK(test::ClassOf(transport->Mount("facts", 0, "test", another->log())) ==
        ErrorClass::kConflict);
  const auto topics = Must(transport->Topics());
  REQUIRE(topics.size() == 1);
  CHECK(topics[0].name == "facts");
  CHECK(topics[0].owner == "test");
  CHECK(topics[0].partitions == 1);

  transport->Unmount("facts", 0);
  transport->Unmount("facts", 0);
  transport->Unmount("never", 0);
  CHECK(test::ClassOf(transport->Subscribe("facts", 0, 0)) == ErrorClass::kNotFound);
  CHECK(Must(transport->Topics()).empty());
}

TEST_CASE("a stored topic is not mounted over") {
  const TempFolder temp;
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  const auto shard = OpenShard(temp.Sub("shard"));
  Must(transport->CreateTopic("entries", 1, {.owner = "ledger"}));
  CHECK(test::ClassOf(transport->Mount("entries", 0, "ledger", shard->log())) ==
        ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->Mount("bad name", 0, "ledger", shard->log())) ==
        ErrorClass::kInvalid);
  CHECK(Must(transport->Topics()).size() == 1);
}

TEST_CASE("an owned topic takes only what is published by number") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("entries", 1, {.owner = "ledger"}));
  Must(transport->CreateTopic("entries", 1, {.owner = "ledger"}));
  CHECK(test::ClassOf(transport->CreateTopic("entries", 2, {.owner = "ledger"})) ==
        ErrorClass::kConflict);
  CHECK(test::ClassOf(transport->CreateTopic("entries", 1)) == ErrorClass::kConflict);
  const auto refused = transport->Publish("entries", {DataEvent("x")});
  CHECK(test::ClassOf(refused) == ErrorClass::kConflict);
  CHECK(refused.error().message.find("ledger") != std::string::npos);
  Must(transport->PublishTo("entries", 0, {DataEvent("x")}));
  transport.reset();
  transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  CHECK(Must(transport->Topics())[0].owner == "ledger");
  CHECK(Must(transport->End("entries", 0)).offset == 1);
}

TEST_CASE("topic names and partition counts") {
  const TempFolder temp;
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  for (const std::string& name : {std::string(), std::string("."), std::string(".."),
                                  std::string("a b"), std::string("a/b"), std::string("ä"),
                                  std::string(201, 'a'), std::string("a\0b", 3)}) {
    CAPTURE(name);
    CHECK(test::ClassOf(transport->CreateTopic(name, 1)) == ErrorClass::kInvalid);
  }
  CHECK(test::ClassOf(transport->CreateTopic("a", 0)) == ErrorClass::kInvalid);
  CHECK(test::ClassOf(transport->CreateTopic("a", 1025)) == ErrorClass::kInvalid);
  Must(transport->CreateTopic(std::string(200, 'a'), 1024));
}

TEST_CASE("there is an end to topics and their partitions") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  const auto shard = OpenShard(temp.Sub("shard"));
  CHECK(transport->features().topics_max == kTopicsMax);
  uint32_t partitions = 0;
  for (int i = 0; partitions + 1024 <= kPartitionsTotalMax; ++i, partitions += 1024) {
    Must(transport->CreateTopic("t" + std::to_string(i), 1024));
  }
  const auto refused = transport->CreateTopic("more", 1024);
  CHECK(test::ClassOf(refused) == ErrorClass::kExhausted);
  CHECK_FALSE(refused.error().remedy.empty());
  CHECK(test::ClassOf(transport->Mount("mounted", 1023, "test", shard->log())) ==
        ErrorClass::kExhausted);
  Must(transport->CreateTopic("t0", 1024));
  transport.reset();
  transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  CHECK(test::ClassOf(transport->CreateTopic("more", 1024)) == ErrorClass::kExhausted);
  const uint32_t left = kPartitionsTotalMax - partitions;
  Must(transport->Mount("mounted", left - 1, "test", shard->log()));
  CHECK(test::ClassOf(transport->CreateTopic("more", 1)) == ErrorClass::kExhausted);
  transport->Unmount("mounted", left - 1);
  Must(transport->CreateTopic("more", left));
  CHECK(transport->error().has_value());
}

TEST_CASE("a poll holds no more memory than it may, however small the events are") {
  const TempFolder temp;
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("t", 2));
  // Events of a byte in records with one of 200 KiB of the other partition: to keep the one is to keep both.
  const std::string large(200u << 10, 'x');
  test::EventParts zero, one;
  zero.key = "0";
  one.key = "1";
  while (PartitionOf(zero.key, 2) != 0) zero.key += '0';
  while (PartitionOf(one.key, 2) != 1) one.key += '1';
  one.data = large;
  constexpr uint64_t kEvents = 20;
  for (uint64_t i = 0; i < kEvents; ++i) {
    Must(transport->Publish("t", {test::MakeEvent(zero), test::MakeEvent(one)}));
  }
  const auto subscription = Must(transport->Subscribe("t", 0, 0));
  PollLimits limits;
  limits.bytes_max = 1u << 20;
  MessageBatch batch;
  uint64_t next = 0;
  while (next < kEvents) {
    Must(subscription->Poll(limits, &batch));
    REQUIRE_FALSE(batch.messages.empty());
    CHECK(batch.pins.size() <= 6);
    for (const Message& message : batch.messages) CHECK(message.offset == next++);
  }
}

TEST_CASE("a subscription at the last offset there could be is beyond the end") {
  const TempFolder temp;
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("t", 1));
  Must(transport->Publish("t", {DataEvent("x")}));
  const auto subscription = Must(transport->Subscribe("t", 0, UINT64_MAX));
  PollLimits limits;
  limits.timeout = std::chrono::milliseconds(10);
  MessageBatch batch;
  Must(subscription->Poll(limits, &batch));
  CHECK(batch.messages.empty());
}

TEST_CASE("the store is new: its incarnation is, too") {
  const TempFolder temp;
  uint32_t first;
  {
    const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
    Must(transport->CreateTopic("t", 1));
    first = Must(transport->End("t", 0)).incarnation;
    CHECK(first != 0);
  }
  {
    const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
    CHECK(Must(transport->End("t", 0)).incarnation == first);
  }
  std::filesystem::remove_all(temp.Sub("bus"));
  const auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("t", 1));
  CHECK(Must(transport->End("t", 0)).incarnation != first);
}

}  // namespace
}  // namespace leat::bus
