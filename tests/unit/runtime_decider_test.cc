// The decider's runner, the relay and the rebuilds, with a toy decider over the embedded transport.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "events/codec.h"
#include "events/registry.h"
#include "runtime/decider_runner.h"
#include "runtime/inbox.h"
#include "runtime/projection_runner.h"
#include "runtime/relay.h"
#include "runtime/shard.h"
#include "tests/support/counter.h"
#include "tests/support/forwarding_transport.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using bus::EmbeddedTransport;
using test::Below;
using test::Counter;
using test::CountInput;
using test::Expected;
using test::Must;
using test::Random;
using test::ReadLog;
using test::ReadTopic;
using test::TempFolder;

constexpr auto kPatience = std::chrono::seconds(60);

std::unique_ptr<Shard> OpenShard(const std::string& path) {
  ShardOptions options;
  options.path = path;
  options.name = "counter-0";
  options.has_log = true;
  options.resources = test::SmallResources();
  return Must(Shard::Open(options));
}

RunnerOptions Input() {
  RunnerOptions options;
  options.topic = "asked";
  return options;
}

// The stored bytes of every event. (The root is another one in a rebuilt log: leaves cover commit times.)
std::vector<std::string> Stored(const eventstore::Log& log) {
  std::vector<std::string> out;
  eventstore::LogCursor cursor = log.Read(0);
  eventstore::LogEvent event;
  while (Must(cursor.Next(&event))) {
    out.push_back(std::string(event.source) + " " + std::string(event.stream) + "@" +
                  std::to_string(event.version) + " " + std::string(event.envelope));
  }
  return out;
}

void Publish(EmbeddedTransport& transport, Expected* expected, const std::string& key, int n) {
  Must(transport.Publish("asked", {CountInput(key, n)}));
  expected->Apply(key, n);
}

TEST_CASE("inputs are decided once, over any number of restarts") {
  const uint64_t seed = test::Seed(31);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  for (int round = 0; round < 12; ++round) {
    const auto shard = OpenShard(temp.Sub("shard"));
    Counter counter;
    DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
    Must(runner.Start());
    for (uint64_t left = Below(random, 60); left > 0; --left) {
      Publish(*transport, &expected, "k" + std::to_string(Below(random, 5)),
              static_cast<int>(Below(random, 4)));
    }
    // Sometimes it is stopped in the middle.
    if (round % 3 != 0) {
      REQUIRE(runner.status().WaitApplied(expected.inputs, kPatience));
      CHECK(test::Rows(shard->database()) == expected.rows);
      CHECK(ReadLog(*shard->log()) == expected.events);
    }
    CHECK(runner.status().error().has_value());
  }
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  {
    DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(expected.inputs, kPatience));
  }
  CHECK(test::Rows(shard->database()) == expected.rows);
  CHECK(ReadLog(*shard->log()) == expected.events);
  CHECK(Must(shard->Input("asked", 0)).next == expected.inputs);
  Must(shard->log()->Verify(nullptr, nullptr));
}

TEST_CASE("rows, events and the input position are one commit, and what was not committed is nothing") {
  const TempFolder temp;
  Counter counter;
  const events::Cause cause{"asked", 0, 6, 0, 0};
  {
    const auto shard = OpenShard(temp.Sub("shard"));
    Decision decision;
    Must(counter.Decide(shard->state(), *shard->log(), CountInput("a", 2).view(), &decision));
    Must(StageDecision(shard.get(), &counter, decision, &cause));
    shard->SetInput("asked", 0, {7, 99});
    // Staged writes are seen by the service itself and by nobody else.
    CHECK(Must(Counter::Read(shard->state(), "a")) == 2);
    CHECK(test::Rows(shard->database()).empty());
    CHECK(shard->log()->size() == 0);
    CHECK(shard->HasStaged());
    CHECK(shard->StagedBytes() > 0);
    // Killed here.
  }
  {
    const auto shard = OpenShard(temp.Sub("shard"));
    CHECK(test::Rows(shard->database()).empty());
    CHECK(shard->log()->size() == 0);
    CHECK(Must(shard->Input("asked", 0)).next == 0);
    Decision decision;
    Must(counter.Decide(shard->state(), *shard->log(), CountInput("a", 2).view(), &decision));
    Must(StageDecision(shard.get(), &counter, decision, &cause));
    shard->SetInput("asked", 0, {7, 99});
    Must(shard->Commit(true));
    CHECK_FALSE(shard->HasStaged());
  }
  const auto shard = OpenShard(temp.Sub("shard"));
  CHECK(test::Rows(shard->database()) == std::map<std::string, std::string>{{"c/a", "2"}});
  CHECK(shard->log()->size() == 2);
  const auto input = Must(shard->Input("asked", 0));
  CHECK(input.next == 7);
  CHECK(input.incarnation == 99);
  CHECK(Must(shard->Input("asked", 1)).next == 0);
  CHECK(Must(shard->Input("other", 0)).next == 0);
}

TEST_CASE("an input whose decision is an error stops the runner before it") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  Publish(*transport, &expected, "a", 2);
  Must(transport->Publish("asked", {test::DataEvent("no plus")}));
  auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  {
    DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
    Must(runner.Start());
    CHECK_FALSE(runner.status().WaitApplied(2, kPatience));  // returns when it stopped
    const auto error = runner.status().error();
    REQUIRE_FALSE(error.has_value());
    CHECK(error.error().message.find("cannot decide") != std::string::npos);
  }
  // What came before it in the same batch is not committed, and nobody builds on it: it is decided
  // again.
  CHECK(shard->log()->size() == 0);
  {
    DeciderRunner again(shard.get(), &counter, transport.get(), Input());
    Must(again.Start());
    CHECK_FALSE(again.status().WaitApplied(2, kPatience));
    CHECK_FALSE(again.status().error().has_value());
  }
  // Opened anew it is where it was.
  shard.reset();
  shard = OpenShard(temp.Sub("shard"));
  RunnerOptions first = Input();
  first.stop_at = 1;
  DeciderRunner anew(shard.get(), &counter, transport.get(), first);
  Must(anew.Start());
  REQUIRE(anew.status().WaitApplied(1, kPatience));
  CHECK(ReadLog(*shard->log()) == expected.events);
}

TEST_CASE("a dead letter has what fits of the original bytes, and says how many there were") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  const std::string large(events::kDataBytesMax, 'x');
  bus::Message message;
  message.event.data = large;
  Must(SendToDeadLetters(transport.get(), "asked", 0, message, "it is too much"));
  const auto subscription = Must(transport->Subscribe("asked.dead", 0, 0));
  bus::MessageBatch batch;
  while (batch.messages.empty()) Must(subscription->Poll({}, &batch));
  v1::DeadLettered letter;
  REQUIRE(letter.ParseFromString(std::string(batch.messages[0].event.data)));
  CHECK(letter.data() == large.substr(0, 15u << 20));
  CHECK(letter.data_bytes() == large.size());
  CHECK(letter.problem() == "it is too much");
}

TEST_CASE("what a stranger's input is at fault for is one dead letter, and the partition goes on") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  const auto strange = [&](const std::string& data) {
    Must(transport->Publish("asked", {test::CountedInput(data)}));
    ++expected.inputs;
  };
  std::vector<std::string> letters;
  Publish(*transport, &expected, "a", 2);
  strange("at fault");
  Publish(*transport, &expected, "a", 1);
  strange("unheard of");
  letters = {"at fault", "unheard of"};
  SUBCASE("in the middle of what belongs together") {
    Must(transport->Publish("asked", {CountInput("b", 1, true)}));
    ++expected.inputs;
    strange("b+-1");
    letters.push_back("b+-1");
  }
  SUBCASE("alone") {}
  SUBCASE("before the rest of what belongs to it") {
    Must(transport->Publish("asked", {CountInput("b", 1, true), CountInput("b", -1, true), CountInput("b+rest", 1)}));
    expected.inputs += 3;
    letters.insert(letters.end(), {"b+-1", "b+rest+1"});
  }
  Publish(*transport, &expected, "b", 3);
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  RunnerOptions options = Input();
  SUBCASE("many in a commit") {}
  SUBCASE("one in a commit") { options.commit_bytes = 1; }
  {
    DeciderRunner runner(shard.get(), &counter, transport.get(), options);
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(expected.inputs, kPatience));
  }
  CHECK(ReadLog(*shard->log()) == expected.events);
  CHECK(test::Rows(shard->database()) == expected.rows);
  CHECK(test::DeadLetters(*transport, "asked") == letters);
}

TEST_CASE("of a decision that cannot be evolved nothing is ever committed") {
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  Decision good, half;
  good.Add("counter-b", test::kCounted, 5, "b", "b=1");
  half.Add("counter-a", test::kCounted, 5, "a", "a=1");
  half.Add("counter-a", test::kCounted, 5, "a", "a=3");
  Must(StageDecision(shard.get(), &counter, good, nullptr));
  CHECK(test::ClassOf(StageDecision(shard.get(), &counter, half, nullptr)) ==
        ErrorClass::kInternal);
  CHECK_FALSE(shard->HasStaged());
  CHECK(shard->log()->StagedBytes() == 0);
  Must(shard->Commit(true));
  CHECK(shard->log()->size() == 0);
  CHECK(test::Rows(shard->database()).empty());
  // The shard goes on.
  Must(StageDecision(shard.get(), &counter, good, nullptr));
  Must(shard->Commit(true));
  CHECK(test::Rows(shard->database()) == std::map<std::string, std::string>{{"c/b", "1"}});
  Must(shard->log()->Verify(nullptr, nullptr));
}

TEST_CASE("an event beyond the limits is refused before anything is staged of its decision") {
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  Decision good, large;
  good.Add("counter-b", test::kCounted, 5, "b", "b=1");
  large.Add("counter-a", test::kCounted, 5, "a", "a=1");
  large.Add("counter-a", test::kCounted, 5, std::string(events::kAttributeBytesMax + 1, 'k'),
            "a=2");
  Must(StageDecision(shard.get(), &counter, good, nullptr));
  CHECK(test::ClassOf(StageDecision(shard.get(), &counter, large, nullptr)) ==
        ErrorClass::kInvalid);
  CHECK(shard->HasStaged());
  Must(shard->Commit(true));
  CHECK(ReadLog(*shard->log()) == std::vector<std::string>{"test.counted.v1 counter-b b b=1 -"});
}

TEST_CASE("a full disk refuses a commit, which can be made when there is room again") {
  const TempFolder temp;
  std::atomic<uint64_t> free_bytes = UINT64_MAX;
  ShardOptions options;
  options.path = temp.Sub("shard");
  options.name = "counter-0";
  options.has_log = true;
  options.resources = test::SmallResources();
  options.free_bytes = [&] { return free_bytes.load(); };
  const auto shard = Must(Shard::Open(options));
  Counter counter;
  Decision decision;
  decision.Add("counter-a", test::kCounted, 5, "a", "a=1");
  free_bytes = 0;
  Must(StageDecision(shard.get(), &counter, decision, nullptr));
  CHECK(test::ClassOf(shard->Commit(true)) == ErrorClass::kExhausted);
  CHECK_FALSE(shard->HasStaged());
  CHECK(shard->error().has_value());
  CHECK(shard->log()->size() == 0);
  free_bytes = UINT64_MAX;
  Must(StageDecision(shard.get(), &counter, decision, nullptr));
  Must(shard->Commit(true));
  CHECK(shard->log()->size() == 1);
  CHECK(test::Rows(shard->database()) == std::map<std::string, std::string>{{"c/a", "1"}});
  Must(shard->log()->Verify(nullptr, nullptr));
}

// Remembers what it was given of each event.
class Recorder final : public Evolver {
 public:
  Status Evolve(State*, const events::EventView& event, uint64_t position) override {
    seen.emplace_back(position, events::Event(event));
    return {};
  }
  std::vector<std::pair<uint64_t, events::Event>> seen;
};

TEST_CASE("an event is evolved when it is decided as it is when it is read again") {
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  Recorder live, again;
  Decision decision;
  decision.Add("a", test::kCounted, 5, "k", "1");
  decision.Add("b", test::kCounted, 6, "k", "2", "my id");
  decision.Add("a", test::kCounted, 7, "", "3");
  const events::Cause cause{"asked", 0, 6, 0, 0};
  Must(StageDecision(shard.get(), &live, decision, &cause));
  Must(shard->Commit(true));
  Must(RebuildFromLog(shard.get(), &again, Input(), 0, nullptr));
  REQUIRE(live.seen.size() == 3);
  REQUIRE(again.seen.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(live.seen[i].first == again.seen[i].first);
    test::CheckSame(live.seen[i].second.view(), again.seen[i].second.view());
  }
  CHECK(live.seen[2].second.view().streamversion == 2);
}

TEST_CASE("what a commit holds counts its events") {
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  Recorder recorder;
  Decision decision;
  decision.Add("a", test::kCounted, 5, "k", std::string(1u << 20, 'x'));
  Must(StageDecision(shard.get(), &recorder, decision, nullptr));
  CHECK(shard->StagedBytes() > 1u << 20);
}

TEST_CASE("an input whose other half does not come is not decided in part") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  Must(transport->Publish("asked", {CountInput("a", 1, true)}));
  RunnerOptions options = Input();
  SUBCASE("when the runner is stopped") {
    DeciderRunner runner(shard.get(), &counter, transport.get(), options);
    Must(runner.Start());
    while (counter.decided < 1) std::this_thread::yield();
  }
  SUBCASE("when it ends at an offset") {
    options.stop_at = 1;
    DeciderRunner runner(shard.get(), &counter, transport.get(), options);
    Must(runner.Start());
    CHECK_FALSE(runner.status().WaitApplied(1, kPatience));
    CHECK(runner.status().error().has_value());
  }
  CHECK(shard->log()->size() == 0);
  CHECK_FALSE(shard->HasStaged());
  CHECK(Must(shard->Input("asked", 0)).next == 0);
  Must(transport->Publish("asked", {CountInput("a", 1)}));
  DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(2, kPatience));
  CHECK(ReadLog(*shard->log()).size() == 2);
}

TEST_CASE("an input whose other half was never written is passed over") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  const auto lost = [&](const std::string& key) {
    Must(transport->Publish("asked", {CountInput(key, 1, true), CountInput(key, 2, true)}));
    expected.inputs += 2;
  };
  Publish(*transport, &expected, "a", 2);
  lost("b");
  Publish(*transport, &expected, "a", 1);  // somebody else goes on
  lost("b");
  lost("c");  // breaks off, and is broken off
  Publish(*transport, &expected, "b", 3);
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  RunnerOptions options = Input();
  SUBCASE("in one commit with what came before") {}
  SUBCASE("after a commit") { options.commit_bytes = 1; }
  DeciderRunner runner(shard.get(), &counter, transport.get(), options);
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(expected.inputs, kPatience));
  CHECK(ReadLog(*shard->log()) == expected.events);
  CHECK(test::Rows(shard->database()) == expected.rows);
}

TEST_CASE("an input and those it continues in are one commit") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  RunnerOptions options = Input();
  options.commit_bytes = 1;  // a commit after every input that may end one
  DeciderRunner runner(shard.get(), &counter, transport.get(), options);
  Must(runner.Start());
  Must(transport->Publish("asked", {CountInput("a", 1, true)}));
  while (counter.decided < 1) std::this_thread::yield();
  // Decided, and not to be seen: its other half has not come.
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  CHECK(shard->log()->size() == 0);
  CHECK(runner.status().applied() == 0);
  Must(transport->Publish("asked", {CountInput("a", 1)}));
  REQUIRE(runner.status().WaitApplied(2, kPatience));
  CHECK(shard->log()->size() == 2);
  size_t records = 0;
  const auto iterator = shard->database().NewIterator(eventstore::Family::kLog);
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) ++records;
  CHECK(records == 1);
}

TEST_CASE("a decision that reads the log finds in it what was decided before") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  std::vector<events::Event> inputs{CountInput("a", 3), CountInput("b", 2)};
  test::EventParts parts;
  parts.key = "c";
  parts.subject = "needs log";
  parts.data = "c+1";
  inputs.push_back(test::MakeEvent(parts));
  Must(transport->Publish("asked", inputs));
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(3, kPatience));
  CHECK(counter.log_size_seen == 5);
}

TEST_CASE("a runner ends before the offset it was told to stop at") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  for (int i = 0; i < 20; ++i) Publish(*transport, &expected, "a", 1);
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  RunnerOptions options = Input();
  options.stop_at = 7;
  DeciderRunner runner(shard.get(), &counter, transport.get(), options);
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(7, kPatience));
  CHECK_FALSE(runner.status().WaitApplied(8, std::chrono::milliseconds(300)));
  CHECK(runner.status().error().has_value());
  CHECK(shard->log()->size() == 7);
}

TEST_CASE("an input that was created anew is refused") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  Publish(*transport, &expected, "a", 1);
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  {
    DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(1, kPatience));
  }
  transport.reset();
  std::filesystem::remove_all(temp.Sub("bus"));
  transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  for (int i = 0; i < 3; ++i) Publish(*transport, &expected, "a", 1);
  DeciderRunner runner(shard.get(), &counter, transport.get(), Input());
  CHECK(test::ClassOf(runner.Start()) == ErrorClass::kConflict);
}

// A subscriber that leaves an offset out.
class Gappy final : public test::ForwardingTransport {
 public:
  Gappy(bus::Transport* inner, uint64_t missing) : ForwardingTransport(inner), missing_(missing) {}
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto subscription, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Leaving>(std::move(subscription), missing_);
  }

 private:
  class Leaving final : public bus::Subscription {
   public:
    Leaving(std::unique_ptr<bus::Subscription> inner, uint64_t missing)
        : inner_(std::move(inner)), missing_(missing) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      LEAT_TRY(inner_->Poll(limits, batch));
      std::erase_if(batch->messages, [&](const auto& m) { return m.offset == missing_; });
      return {};
    }
    void Seek(uint64_t offset) override { inner_->Seek(offset); }
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    uint64_t missing_;
  };
  uint64_t missing_;
};

TEST_CASE("offsets without a message are no gap where the transport knows that there was none") {
  InputPosition position;
  position.next = 5;
  bus::Message message;
  message.offset = 9;
  message.vacant = 4;
  message.event.type = "t.happened.v1";
  message.event.source = "s";
  CHECK(Must(Admit("t", message, &position, nullptr)).counts());
  CHECK(position.next == 10);
  CHECK(position.next_position == 1);
  message.offset = 12;
  message.vacant = 1;
  CHECK(test::ClassOf(Admit("t", message, &position, nullptr)) == ErrorClass::kCorrupt);
  CHECK(position.next == 10);
  message.vacant = 7;  // read from before what is done with
  CHECK(Must(Admit("t", message, &position, nullptr)).counts());
  CHECK(position.next == 13);
}

TEST_CASE("a gap in the input stops the runner") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Expected expected;
  for (int i = 0; i < 6; ++i) Publish(*transport, &expected, "a", 1);
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  Gappy gappy(transport.get(), 3);
  {
    DeciderRunner runner(shard.get(), &counter, &gappy, Input());
    Must(runner.Start());
    CHECK_FALSE(runner.status().WaitApplied(6, kPatience));
    const auto error = runner.status().error();
    CHECK(test::ClassOf(error) == ErrorClass::kCorrupt);
    CHECK(error.error().message.find("expected offset 3, got 4") != std::string::npos);
  }
  CHECK(shard->log()->size() <= 3);
  // With the whole input it goes on where it was; rows of what was not committed are gone with the shard.
  const uint64_t before = shard->log()->size();
  CHECK(Must(shard->Input("asked", 0)).next == before);
}

// A transport of which some calls fail for a while.
class Unsteady final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;

  std::atomic<int> polls_to_fail{0};
  std::atomic<int> publishes_to_lose{0};  // never arrive
  std::atomic<int> confirms_to_lose{0};   // arrive, and nobody hears of it
  std::atomic<int> confirmed_to_lose{0};  // never arrive, and are confirmed all the same
  std::atomic<uint64_t> end_lost{0};      // of every partition

  Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
    LEAT_ASSIGN(auto end, inner_->End(topic, partition));
    end.offset -= std::min<uint64_t>(end.offset, end_lost);
    return end;
  }
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override {
    if (publishes_to_lose > 0) {
      --publishes_to_lose;
      return Fail(ErrorClass::kUnavailable, "no broker");
    }
    if (confirmed_to_lose > 0) {
      --confirmed_to_lose;
      return {};
    }
    LEAT_TRY(inner_->PublishTo(topic, partition, events));
    if (confirms_to_lose == 0) return {};
    --confirms_to_lose;
    return Fail(ErrorClass::kUnavailable, "no answer");
  }
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto subscription, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Failing>(std::move(subscription), &polls_to_fail);
  }

 private:
  class Failing final : public bus::Subscription {
   public:
    Failing(std::unique_ptr<bus::Subscription> inner, std::atomic<int>* left)
        : inner_(std::move(inner)), left_(left) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      if (*left_ == 0) return inner_->Poll(limits, batch);
      --*left_;
      return Fail(ErrorClass::kUnavailable, "no broker");
    }
    void Seek(uint64_t offset) override { inner_->Seek(offset); }
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    std::atomic<int>* left_;
  };
};

TEST_CASE("a runner waits for a transport that is away, and stops when it is told to") {
  const TempFolder temp;
  auto transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("asked", 1));
  Unsteady unsteady(transport.get());
  Expected expected;
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  unsteady.polls_to_fail = 3;
  {
    DeciderRunner runner(shard.get(), &counter, &unsteady, Input());
    Must(runner.Start());
    Publish(*transport, &expected, "a", 2);
    REQUIRE(runner.status().WaitApplied(1, kPatience));
    CHECK(runner.status().error().has_value());
    CHECK(unsteady.polls_to_fail == 0);
    unsteady.polls_to_fail = 1'000'000;
    while (unsteady.polls_to_fail == 1'000'000) std::this_thread::yield();
  }
  CHECK(ReadLog(*shard->log()) == expected.events);
}

// ---- relay and rebuild

// Of a shard whose log has nothing but what its topic "counted" has.
Result<Ownership> ClaimFor(Shard* shard, Counter* counter, bus::Transport* transport) {
  LEAT_ASSIGN(const auto ownership,
              ClaimTopic({}, shard, counter, transport, "counted", 0, Input(), nullptr));
  REQUIRE(ownership.has_value());
  return *ownership;
}

class Relayed {
 public:
  Relayed() {
    transport_ = Must(EmbeddedTransport::Open(temp_.Sub("bus")));
    Must(transport_->CreateTopic("asked", 1));
    Must(transport_->CreateTopic("counted", 1, {.owner = "counter"}));
    shard_ = OpenShard(temp_.Sub("shard"));
  }
  // Runs the decider, and the relay where asked, until everything is applied and published.
  void Run(bool relay = true) {
    std::unique_ptr<Relay> relaying;
    if (relay) {
      relaying =
          std::make_unique<Relay>(shard_.get(), transport_.get(), "counted", 0, Must(Claim()));
      Must(relaying->Start());
    }
    DeciderRunner runner(shard_.get(), &counter_, transport_.get(), Input());
    Must(runner.Start());
    const bool applied = runner.status().WaitApplied(expected_.inputs, kPatience);
    if (!applied) Must(runner.status().error());
    REQUIRE(applied);
    if (relay) REQUIRE(relaying->status().WaitApplied(shard_->log()->size(), kPatience));
  }
  void DeleteShard() {
    shard_.reset();
    std::filesystem::remove_all(temp_.Sub("shard"));
    shard_ = OpenShard(temp_.Sub("shard"));
  }
  void ReopenShard() {
    shard_.reset();
    shard_ = OpenShard(temp_.Sub("shard"));
  }
  Result<Ownership> Claim() { return ClaimFor(shard_.get(), &counter_, transport_.get()); }
  void Ask(const std::string& key, int n) { Publish(*transport_, &expected_, key, n); }
  void CheckAll() {
    CHECK(test::Rows(shard_->database()) == expected_.rows);
    CHECK(ReadLog(*shard_->log()) == expected_.events);
    CHECK(ReadTopic(*transport_, "counted") == expected_.events);
  }

  EmbeddedTransport& transport() { return *transport_; }
  Shard& shard() { return *shard_; }
  Counter& counter() { return counter_; }
  Expected& expected() { return expected_; }
  const TempFolder& temp() { return temp_; }

 private:
  TempFolder temp_;
  std::unique_ptr<EmbeddedTransport> transport_;
  std::unique_ptr<Shard> shard_;
  Counter counter_;
  Expected expected_;
};

TEST_CASE("the relay publishes everything once, over restarts at any moment") {
  Relayed world;
  Random random(17);
  for (int round = 0; round < 10; ++round) {
    Relay relay(&world.shard(), &world.transport(), "counted", 0, Must(world.Claim()));
    Must(relay.Start());
    DeciderRunner runner(&world.shard(), &world.counter(), &world.transport(), Input());
    Must(runner.Start());
    for (uint64_t left = Below(random, 40); left > 0; --left) {
      world.Ask("k" + std::to_string(Below(random, 3)), static_cast<int>(Below(random, 4)));
    }
    if (round % 2 == 0) REQUIRE(runner.status().WaitApplied(world.expected().inputs, kPatience));
  }
  world.Run();
  world.CheckAll();
  // What is published carries what the log says of it.
  const auto subscription = Must(world.transport().Subscribe("counted", 0, 0));
  bus::MessageBatch batch;
  Must(subscription->Poll({}, &batch));
  const auto first =
      std::find_if(batch.messages.begin(), batch.messages.end(),
                   [](const auto& message) { return message.event.type == test::kCounted; });
  REQUIRE(first != batch.messages.end());
  CHECK(first->event.streamversion == 1);
  CHECK(first->event.position == 0);
  CHECK(events::EventId(first->event).starts_with("asked/0@"));
  CHECK(EpochOf(first->event.source) == 1);
  CHECK(first->event.source.starts_with("leat/counter-0/"));
}

TEST_CASE("a claim reads nothing again that its shard's relay has read back") {
  Relayed world;
  world.Ask("a", 50);
  world.Run();
  world.ReopenShard();
  const auto kept = Must(world.shard().Input("counted", 0));
  CHECK(kept.next == Must(world.transport().End("counted", 0)).offset);
  CHECK(kept.next_position == 50);
  CHECK(kept.epoch == 1);
  // Nor anything of long before, where the process was killed.
  Relay relay(&world.shard(), &world.transport(), "counted", 0, Must(world.Claim()));
  Must(relay.Start());
  DeciderRunner runner(&world.shard(), &world.counter(), &world.transport(), Input());
  Must(runner.Start());
  world.Ask("a", 30);
  REQUIRE(relay.status().WaitApplied(80, kPatience));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (Must(world.shard().Input("counted", 0)).next_position < 80) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST_CASE("a relay goes on after a transport that was away, whatever had arrived") {
  Relayed world;
  world.Ask("a", 3);
  world.Run(false);
  Unsteady unsteady(&world.transport());
  unsteady.publishes_to_lose = 2;
  unsteady.confirms_to_lose = 1;
  {
    Relay relay(&world.shard(), &unsteady, "counted", 0, Must(world.Claim()));
    Must(relay.Start());
    REQUIRE(relay.status().WaitApplied(3, kPatience));
    CHECK(relay.status().error().has_value());
  }
  world.Ask("a", 1);
  world.Run();
  world.CheckAll();
}

TEST_CASE("a topic that has lost what it had confirmed is read from its beginning") {
  Relayed world;
  world.Ask("a", 20);
  world.Run();
  Unsteady unsteady(&world.transport());
  {
    Relay relay(&world.shard(), &unsteady, "counted", 0, Must(world.Claim()));
    Must(relay.Start());
    world.Ask("a", 5);
    unsteady.end_lost = 3;
    unsteady.publishes_to_lose = 1;
    DeciderRunner runner(&world.shard(), &world.counter(), &world.transport(), Input());
    Must(runner.Start());
    CHECK_FALSE(relay.status().WaitApplied(UINT64_MAX, kPatience));
    CHECK(test::ClassOf(relay.status().error()) == ErrorClass::kConflict);
    REQUIRE(runner.status().WaitApplied(world.expected().inputs, kPatience));
  }
  CHECK(Must(world.shard().Input("counted", 0)).next == 0);
  world.Run();
  world.CheckAll();
  CHECK(Must(world.shard().Input("counted", 0)).next > 0);
}

TEST_CASE("what is confirmed and never comes is noticed, after half a minute, and published again") {
  Relayed world;
  world.Ask("a", 20);
  world.Run(false);
  Unsteady unsteady(&world.transport());
  unsteady.confirmed_to_lose = 1;
  {
    Relay relay(&world.shard(), &unsteady, "counted", 0, Must(world.Claim()));
    Must(relay.Start());
    constexpr auto kLonger = std::chrono::minutes(2);
    CHECK_FALSE(relay.status().WaitApplied(20, kLonger));
    CHECK(test::ClassOf(relay.status().error()) == ErrorClass::kConflict);
  }
  world.Run();
  world.CheckAll();
}

TEST_CASE("a kept position that is not of its topic, or of its log, is forgotten") {
  Relayed world;
  world.Ask("a", 20);
  world.Run();
  const auto kept = Must(world.shard().Input("counted", 0));
  SUBCASE("the topic has an owner's events whose claim is not before it") {
    // As of an owner that was away while the topic lost its end, and got another one.
    Must(world.shard().KeepInput("counted", 0, {10, kept.incarnation, 0, 10}));
    RunnerStatus status;
    SUBCASE("by a claim") { CHECK(test::ClassOf(world.Claim()) == ErrorClass::kUnavailable); }
    SUBCASE("by who follows") {
      const auto followed = FollowTopic({}, &world.shard(), &world.counter(), &world.transport(),
                                        "counted", 0, Input(), &status);
      CHECK(test::ClassOf(followed) == ErrorClass::kUnavailable);
    }
    CHECK(Must(world.shard().Input("counted", 0)).next == 0);
    CHECK(Must(world.Claim()).epoch == kept.epoch + 1);
  }
  SUBCASE("the log is shorter") {
    world.DeleteShard();
    Must(world.shard().KeepInput("counted", 0, kept));
    CHECK(Must(world.Claim()).epoch == kept.epoch + 1);
    CHECK(world.shard().log()->size() == 20);
  }
  world.Run();
  world.CheckAll();
}

// A second owner of the same partition, with a shard of its own.
struct SecondOwner {
  explicit SecondOwner(Relayed* first)
      : world(first), shard(OpenShard(first->temp().Sub("second"))) {}
  Result<Ownership> Claim() { return ClaimFor(shard.get(), &counter, &world->transport()); }
  Relayed* world;
  std::unique_ptr<Shard> shard;
  Counter counter;
};

TEST_CASE("who lost a partition changes nothing") {
  Relayed world;
  world.Ask("a", 3);
  world.Run();
  Relay old(&world.shard(), &world.transport(), "counted", 0, Must(world.Claim()));
  const uint64_t old_epoch = 2;
  // Paused: another one takes over, and goes on.
  SecondOwner second(&world);
  const auto ownership = Must(second.Claim());
  CHECK(ownership.epoch == old_epoch + 1);
  CHECK(second.shard->log()->size() == 3);
  // What the old one still has in its queues comes late; so does a claim of its own from before.
  events::EventView late;
  const std::string source =
      OwnedSource("counter-0", world.shard().log()->incarnation(), old_epoch);
  late.type = test::kCounted;
  late.source = source;
  late.position = 3;
  late.data = "a=4";
  Must(world.transport().PublishTo(
      "counted", 0, {events::Event(late), MakeClaim("counter-0", old_epoch, "late")}));
  world.Ask("a", 2);
  {
    Relay relay(second.shard.get(), &world.transport(), "counted", 0, ownership);
    Must(relay.Start());
    DeciderRunner runner(second.shard.get(), &second.counter, &world.transport(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(2, kPatience));
    REQUIRE(relay.status().WaitApplied(5, kPatience));
    CHECK(relay.status().error().has_value());
  }
  CHECK(ReadTopic(world.transport(), "counted") == world.expected().events);
  // The old one comes back, and learns it.
  Must(old.Start());
  CHECK_FALSE(old.status().WaitApplied(UINT64_MAX, kPatience));
  CHECK(test::ClassOf(old.status().error()) == ErrorClass::kConflict);
  CHECK(ReadTopic(world.transport(), "counted") == world.expected().events);
}

TEST_CASE("an owner whose log went another way is told so") {
  Relayed world;
  world.Ask("a", 1);
  world.Run();
  SecondOwner second(&world);
  const auto ownership = Must(second.Claim());
  // Both decide on from here, differently; only the new owner is heard.
  Decision mine, theirs;
  mine.Add("counter-a", test::kCounted, 5, "a", "a=2", "mine");
  theirs.Add("counter-a", test::kCounted, 5, "a", "a=2", "theirs");
  Must(StageDecision(&world.shard(), &world.counter(), mine, nullptr));
  Must(world.shard().Commit(true));
  Must(StageDecision(second.shard.get(), &second.counter, theirs, nullptr));
  Must(second.shard->Commit(true));
  {
    Relay relay(second.shard.get(), &world.transport(), "counted", 0, ownership);
    Must(relay.Start());
    REQUIRE(relay.status().WaitApplied(2, kPatience));
  }
  CHECK_FALSE(Must(ClaimTopic({}, &world.shard(), &world.counter(), &world.transport(), "counted", 0,
                              Input(), nullptr)));
  // Nor does it follow any further.
  RunnerStatus status;
  CHECK_FALSE(Must(FollowTopic({}, &world.shard(), &world.counter(), &world.transport(), "counted",
                               0, Input(), &status)));
  world.DeleteShard();
  Must(world.Claim());
  CHECK((Stored(*world.shard().log()) == Stored(*second.shard->log())));
}

TEST_CASE(
    "what does not belong on a partition goes to the dead letters, and the partition goes on") {
  Relayed world;
  world.Ask("a", 1);
  world.Run();
  Must(world.transport().PublishTo("counted", 0, {test::DataEvent("a stranger's bytes")}));
  world.Ask("a", 2);
  world.Run();
  // A projection that reads the topic.
  ShardOptions options;
  options.path = world.temp().Sub("projection");
  options.name = "projection-0";
  options.resources = test::SmallResources();
  const auto shard = Must(Shard::Open(options));
  test::CounterProjection counts;
  RunnerOptions input;
  input.topic = "counted";
  const uint64_t end = Must(world.transport().End("counted", 0)).offset;
  {
    ProjectionRunner runner(shard.get(), &counts, &world.transport(), input);
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(end, kPatience));
  }
  const auto subscription = Must(world.transport().Subscribe("counted.dead", 0, 0));
  bus::MessageBatch batch;
  Must(subscription->Poll({}, &batch));
  REQUIRE(batch.messages.size() == 1);
  CHECK(batch.messages[0].event.type == events::kDeadLettered);
  CHECK(batch.messages[0].event.id.starts_with("counted/0@"));
  const std::string json =
      Must(events::DataToJson(events::kDeadLettered, batch.messages[0].event.data));
  CHECK(json.find("not from the partition's owner") != std::string::npos);
  CHECK(batch.messages[0].event.data.find("a stranger's bytes") != std::string_view::npos);
}

TEST_CASE("what counts on a partition") {
  InputPosition position;
  Window window;
  uint64_t offset = 0;
  bus::Message message;
  std::vector<events::Event> kept;
  const auto admit = [&](const events::Event& event) {
    kept.push_back(event);
    message.offset = offset++;
    message.event = kept.back().view();
    return Admit("t", message, &position, &window);
  };
  const auto verdict = [&](const events::Event& event) { return Must(admit(event)).verdict; };
  const auto owned = [](uint64_t epoch, uint64_t at) {
    const std::string source = OwnedSource("s-0", 0xabc, epoch);
    events::EventView view;
    view.type = test::kCounted;
    view.source = source;
    view.position = at;
    return events::Event(view);
  };
  kept.reserve(100);
  CHECK(EpochOf("leat/s-0/abc/7") == 7);
  CHECK(EpochOf("leat/s-0") == 0);
  CHECK(EpochOf("leat/7") == 0);
  CHECK(EpochOf("other/s-0/abc/7") == 0);
  CHECK(EpochOf("leat/s-0/abc/7x") == 0);
  CHECK(verdict(test::DataEvent("anybody's")) == Verdict::kCounts);
  CHECK(verdict(test::DataEvent("anybody's")) == Verdict::kPassedOver);  // of the same source and id
  events::EventView nameless = kept.back().view();
  for (auto* attribute : {&nameless.id, &nameless.source}) {
    const auto before = std::exchange(*attribute, {});
    for (int time = 0; time < 2; ++time) {
      CHECK(verdict(events::Event(nameless)) == Verdict::kRejected);
    }
    *attribute = before;
  }
  CHECK(verdict(MakeClaim("s-0", 1, "x")) == Verdict::kPassedOver);
  CHECK(verdict(test::DataEvent("anybody's")) == Verdict::kRejected);
  CHECK(verdict(owned(1, 1)) == Verdict::kCounts);
  CHECK(verdict(owned(1, 1)) == Verdict::kPassedOver);  // twice
  CHECK(verdict(owned(1, 0)) == Verdict::kPassedOver);
  CHECK(verdict(owned(1, 2)) == Verdict::kCounts);
  CHECK(verdict(MakeClaim("s-0", 4, "y")) == Verdict::kPassedOver);
  CHECK(verdict(owned(1, 3)) == Verdict::kPassedOver);  // had lost it
  CHECK(verdict(MakeClaim("s-0", 3, "z")) ==
        Verdict::kPassedOver);  // too low: as if it were not there
  CHECK(verdict(owned(3, 3)) == Verdict::kPassedOver);
  CHECK(verdict(owned(4, 3)) == Verdict::kCounts);
  CHECK(position.epoch == 4);
  CHECK(position.next_position == 4);
  CHECK(verdict(owned(4, 5)) == Verdict::kPassedOver);  // comes again behind what it lacks
  CHECK(verdict(owned(4, 4)) == Verdict::kCounts);
  CHECK(verdict(owned(4, 5)) == Verdict::kCounts);
  CHECK(verdict(owned(5, 6)) == Verdict::kRejected);  // nobody claimed that
  events::EventView broken;
  broken.type = events::kShardClaimed;
  broken.data = "no claim";
  CHECK(verdict(events::Event(broken)) == Verdict::kRejected);
  CHECK(verdict(MakeClaim("s-0", UINT64_MAX, "x")) == Verdict::kRejected);
  ++offset;
  CHECK(test::ClassOf(admit(owned(4, 6))) == ErrorClass::kCorrupt);  // an offset is missing
  offset = 0;
  CHECK(verdict(owned(4, 4)) == Verdict::kPassedOver);  // a poll may begin before the place
}

TEST_CASE("a shard is rebuilt from its topic: rows, position, and a log of the same bytes") {
  Relayed world;
  for (int i = 0; i < 50; ++i) world.Ask("k" + std::to_string(i % 7), i % 4);
  world.Run();
  const auto stored = Stored(*world.shard().log());
  world.DeleteShard();
  CHECK(world.shard().log()->size() == 0);
  Must(world.Claim());
  CHECK((Stored(*world.shard().log()) == stored));
  world.CheckAll();
  // What comes after goes on from there, inputs without events at the end are decided again.
  world.Ask("k1", 2);
  world.Run();
  world.CheckAll();
  // A second time there is nothing to do.
  const int evolved = world.counter().evolved;
  Must(world.Claim());
  CHECK(world.counter().evolved == evolved);
  Must(world.shard().log()->Verify(nullptr, nullptr));
}

TEST_CASE("a shard that is behind its topic takes only what it lacks") {
  Relayed world;
  for (int i = 0; i < 10; ++i) world.Ask("a", 1);
  world.Run();
  std::filesystem::copy(world.temp().Sub("shard"), world.temp().Sub("old"),
                        std::filesystem::copy_options::recursive);
  for (int i = 0; i < 10; ++i) world.Ask("a", 2);
  world.Run();
  auto old = OpenShard(world.temp().Sub("old"));
  REQUIRE(old->log()->size() == 10);
  Counter counter;
  Must(ClaimFor(old.get(), &counter, &world.transport()));
  CHECK(counter.evolved == 20);
  CHECK((Stored(*old->log()) == Stored(*world.shard().log())));
  CHECK(test::Rows(old->database()) == world.expected().rows);
  CHECK(Must(old->Input("asked", 0)).next == 20);
}

// Publishes the first `count` events of the shard's log, as a relay does, and forgets the shard.
void HalfPublish(Relayed& world, uint64_t count,
                 const std::function<events::Event(const events::EventView&, uint64_t)>& change) {
  world.Run(false);
  std::vector<events::Event> events;
  eventstore::LogCursor cursor = world.shard().log()->Read(0);
  eventstore::LogEvent event;
  while (events.size() < count) {
    REQUIRE(Must(cursor.Next(&event)));
    auto view = Must(event.Decode());
    const std::string source = OwnedSource("counter-0", 1, 1);
    view.source = source;
    view.position = event.position;
    events.push_back(change ? change(view, event.position) : events::Event(view));
  }
  Must(world.transport().PublishTo("counted", 0, {MakeClaim("counter-0", 1, "owner")}));
  Must(world.transport().PublishTo("counted", 0, events));
}

TEST_CASE("a decision that was published in part is finished") {
  for (uint64_t published = 0; published <= 9; ++published) {
    CAPTURE(published);
    Relayed world;
    world.Ask("a", 3);
    world.Ask("b", 0);
    world.Ask("a", 4);
    world.Ask("b", 2);
    if (published == 0) {
      world.Run(false);
    } else {
      HalfPublish(world, published, nullptr);
    }
    const auto stored = Stored(*world.shard().log());
    world.DeleteShard();
    Must(world.Claim());
    // Whole decisions alone are in the log now.
    const uint64_t whole = published == 0 ? 0 : published <= 3 ? 3 : published <= 7 ? 7 : 9;
    CHECK(world.shard().log()->size() == whole);
    world.Run();
    world.CheckAll();
    CHECK((Stored(*world.shard().log()) == stored));
  }
}

TEST_CASE("a decision whose published part differs stops with an error") {
  const auto refused = [](const std::function<void(events::EventView*)>& change) {
    Relayed world;
    world.Ask("a", 1);
    world.Ask("a", 3);
    HalfPublish(world, 3, [&](const events::EventView& view, uint64_t position) {
      events::EventView changed = view;
      if (position == 2) change(&changed);
      return events::Event(changed);
    });
    world.DeleteShard();
    const auto status = world.Claim();
    if (status) return std::string("accepted");
    // The half is not there; what was whole before it may be.
    CHECK(world.shard().log()->size() <= 1);
    CHECK(Must(world.shard().Input("asked", 0)).next <= 1);
    return std::string(core::ErrorClassName(status.error().error_class));
  };
  CHECK(refused([](events::EventView*) {}) == "accepted");
  CHECK(refused([](events::EventView* view) { view->data = "a=9"; }) == "unsupported");
  CHECK(refused([](events::EventView* view) { view->type = "test.other.v1"; }) == "unsupported");
  CHECK(refused([](events::EventView* view) { view->time_us += 1; }) == "unsupported");
  CHECK(refused([](events::EventView* view) { view->partitionkey = "z"; }) == "unsupported");
  CHECK(refused([](events::EventView* view) { view->subject = "counter-z"; }) == "unsupported");
  CHECK(refused([](events::EventView* view) { view->id = "mine"; }) == "unsupported");
  // Another cause, or a number that does not follow: the decision is broken off.
  CHECK(refused([](events::EventView* view) { view->cause->n = 1; }) == "corrupt");
  CHECK(refused([](events::EventView* view) { view->cause->offset = 0; }) == "corrupt");
  CHECK(refused([](events::EventView* view) { view->cause->m = 2; }) == "corrupt");
  CHECK(refused([](events::EventView* view) { view->cause.reset(); }) == "corrupt");
}

TEST_CASE("a shard's rows are rebuilt from its own log") {
  Relayed world;
  for (int i = 0; i < 30; ++i) world.Ask("k" + std::to_string(i % 3), i % 3);
  world.Run();
  const auto end = Must(world.transport().End("asked", 0));
  // Rows that are wrong, and one too many.
  world.shard().state().Put("c/k1", "1000");
  world.shard().state().Put("x", "stray");
  Must(world.shard().Commit(true));
  uint64_t last = 0;
  Must(RebuildFromLog(&world.shard(), &world.counter(), Input(), end.incarnation,
                      [&](uint64_t done) { last = done; }));
  CHECK(last == world.shard().log()->size());
  world.CheckAll();
  CHECK_FALSE(Must(world.shard().Rebuilding()));
  // It goes on where it was.
  world.ReopenShard();
  world.Ask("k0", 1);
  world.Run();
  world.CheckAll();
}

TEST_CASE("a rebuild keeps to the input that was decided from") {
  Relayed world;
  for (int i = 0; i < 4; ++i) world.Ask("a", 1);
  world.Run();
  const uint32_t incarnation = Must(world.shard().Input("asked", 0)).incarnation;
  REQUIRE(incarnation != 0);
  const auto rebuild = [&](uint32_t input) {
    return RebuildFromLog(&world.shard(), &world.counter(), Input(), input, nullptr);
  };
  CHECK(test::ClassOf(rebuild(incarnation + 2)) == ErrorClass::kConflict);
  CHECK_FALSE(Must(world.shard().Rebuilding()));
  CHECK(test::Rows(world.shard().database()) == world.expected().rows);
  // An input that does not tell is taken to be the one.
  Must(rebuild(0));
  CHECK(Must(world.shard().Input("asked", 0)).next == 4);
  CHECK(Must(world.shard().Input("asked", 0)).incarnation == incarnation);
  // Also of a rebuild that was interrupted.
  Must(world.shard().ClearRows());
  world.ReopenShard();
  CHECK(Must(world.shard().Input("asked", 0)).next == 4);
  CHECK(test::ClassOf(rebuild(incarnation + 2)) == ErrorClass::kConflict);
  Must(rebuild(incarnation));
  CHECK(test::Rows(world.shard().database()) == world.expected().rows);
}

TEST_CASE("a rebuild that was interrupted is made again before anything is decided") {
  Relayed world;
  for (int i = 0; i < 30; ++i) world.Ask("k" + std::to_string(i % 3), 2);
  world.Run();
  // The rows are cleared, some are back, and the process is killed.
  Must(world.shard().ClearRows());
  world.shard().state().Put("c/k0", "1");
  Must(world.shard().Commit(true));
  world.ReopenShard();
  CHECK(Must(world.shard().Rebuilding()));
  world.Ask("k0", 1);
  world.Run();
  CHECK_FALSE(Must(world.shard().Rebuilding()));
  world.CheckAll();
}

TEST_CASE("events decided from nothing a topic carried have no cause") {
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  Counter counter;
  Decision decision;
  decision.Add("counter-a", test::kCounted, 5, "a", "a=1", "my id");
  Must(StageDecision(shard.get(), &counter, decision, nullptr));
  Must(shard->Commit(true));
  eventstore::LogCursor cursor = shard->log()->Read(0);
  eventstore::LogEvent event;
  REQUIRE(Must(cursor.Next(&event)));
  const auto view = Must(event.Decode());
  CHECK_FALSE(view.cause.has_value());
  CHECK(view.id == "my id");
  CHECK(view.source == "leat/counter-0");
}

}  // namespace
}  // namespace leat::runtime
