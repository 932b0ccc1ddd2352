// Owners of a partition: frozen at every step while another one takes over, followed by warm copies, and back again.
#include <doctest/doctest.h>

#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "runtime/decider_runner.h"
#include "runtime/owned_shard.h"
#include "runtime/role.h"
#include "tests/support/counter.h"
#include "tests/support/freezing_transport.h"
#include "tests/support/test_support.h"
#include "tests/support/until.h"

namespace leat::runtime {
namespace {

using bus::EmbeddedTransport;
using test::Counter;
using test::CountInput;
using test::Expected;
using test::Freezing;
using test::Must;
using test::TempFolder;
using test::Until;

constexpr auto kPatience = std::chrono::seconds(60);
constexpr std::string_view kTopic = "counted";

RunnerOptions Input() {
  RunnerOptions options;
  options.topic = "asked";
  return options;
}

// A counting service as a part of a role.
class CounterPart final : public Part {
 public:
  CounterPart(const std::string& path, bus::Transport* transport) : transport_(transport) {
    OwnedShardOptions options;
    options.shard.path = path;
    options.shard.name = "counter-0";
    options.shard.has_log = true;
    options.shard.resources = test::SmallResources();
    options.topic = kTopic;
    options.input = Input();
    owned_ = Must(OwnedShard::Open(options, &counter_, transport));
  }
  ~CounterPart() override { Rest(); }

  Status Own(const std::stop_token& stop) override {
    Rest();
    LEAT_TRY(owned_->Own(stop));
    runner_ = std::make_unique<DeciderRunner>(owned_->shard().get(), &counter_, transport_, Input());
    return runner_->Start();
  }
  Status Follow() override {
    Rest();
    return owned_->Follow();
  }
  void Rest() override {
    runner_.reset();
    owned_->Rest();
  }
  Standing standing() const override {
    return {runner_ == nullptr ? 0 : runner_->status().applied(), owned_->published_end(),
            owned_->epoch()};
  }
  Status error() const override {
    LEAT_TRY(owned_->error());
    return runner_ == nullptr ? Status() : runner_->status().error();
  }
  OwnedShard& owned() { return *owned_; }

  // Everything up to `inputs` is decided, and there to stay.
  bool WaitDone(uint64_t inputs) {
    return runner_->status().WaitApplied(inputs, kPatience) &&
           owned_->WaitPublished(owned_->shard()->log()->size(), kPatience);
  }

 private:
  bus::Transport* const transport_;
  Counter counter_;
  std::unique_ptr<OwnedShard> owned_;
  std::unique_ptr<DeciderRunner> runner_;
};

struct World {
  TempFolder temp;
  std::unique_ptr<EmbeddedTransport> transport;
  Expected expected;

  World() {
    transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
    Must(transport->CreateTopic("asked", 1));
    Must(transport->CreateTopic(kTopic, 1, {.owner = "counter"}));
  }
  void Ask(const std::string& key, int n) {
    Must(transport->Publish("asked", {CountInput(key, n)}));
    expected.Apply(key, n);
  }
  void CheckTopic() { CHECK(test::ReadTopic(*transport, std::string(kTopic)) == expected.events); }
};

TEST_CASE("an owner that is frozen at any step, and comes back when another one has taken over, changes nothing") {
  int step = 0;
  for (bool reached = true; reached; ++step) {
    CAPTURE(step);
    World world;
    Freezing freezing(world.transport.get(), step);
    CounterPart first(world.temp.Sub("first"), &freezing);
    for (int i = 0; i < 3; ++i) world.Ask(i % 2 == 0 ? "a" : "b", i + 1);
    std::jthread owner([&] {
      auto owned = first.Own({});
      // Two that claim at the same time: one of them has to try again.
      if (!owned) CHECK(test::ClassOf(owned) == ErrorClass::kConflict);
    });
    reached = Until([&] {
      return freezing.frozen() || first.owned().published() == world.expected.events.size();
    }) && freezing.frozen();
    if (!reached) {
      owner.join();
      world.CheckTopic();
      break;
    }
    {
      CounterPart second(world.temp.Sub("second"), world.transport.get());
      Must(second.Own({}));
      world.Ask("a", 2);
      REQUIRE(second.WaitDone(world.expected.inputs));
      world.CheckTopic();
      freezing.Thaw();
      owner.join();
      // What it had in its hands comes late; then it knows, unless it only claims now.
      REQUIRE(Until([&] { return !first.error() || !second.error() || first.owned().epoch() == 0; }));
      world.CheckTopic();
    }
    world.Ask("b", 1);
    Must(first.Own({}));
    REQUIRE(first.WaitDone(world.expected.inputs));
    world.CheckTopic();
    CHECK(test::ReadLog(*first.owned().shard()->log()) == world.expected.events);
    CHECK(test::Rows(first.owned().shard()->database()) == world.expected.rows);
  }
  // The claim, its reading back, three decisions, their publishing and reading back.
  CHECK(step > 8);
  MESSAGE(step, " steps");
}

TEST_CASE("a warm copy follows its owner, and takes over from where it is") {
  World world;
  CounterPart owner(world.temp.Sub("owner"), world.transport.get());
  CounterPart standby(world.temp.Sub("standby"), world.transport.get());
  Must(owner.Own({}));
  Must(standby.Follow());
  for (int i = 0; i < 50; ++i) world.Ask("k" + std::to_string(i % 3), i % 4);
  REQUIRE(owner.WaitDone(world.expected.inputs));
  REQUIRE(Until([&] { return standby.owned().published() == world.expected.events.size(); }));
  CHECK(test::ReadLog(*standby.owned().shard()->log()) == world.expected.events);
  CHECK(test::Rows(standby.owned().shard()->database()) == world.expected.rows);
  CHECK(Must(standby.owned().shard()->Input("asked", 0)).next > 0);
  // Neither of them is asked: the other one is gone.
  owner.Rest();
  Must(standby.Own({}));
  world.Ask("k1", 3);
  REQUIRE(standby.WaitDone(world.expected.inputs));
  world.CheckTopic();
  // And the other way round, with a copy that was not warm all the time.
  Must(owner.Follow());
  REQUIRE(Until([&] { return owner.owned().published() == world.expected.events.size(); }));
  CHECK(test::Rows(owner.owned().shard()->database()) == world.expected.rows);
}

// Of the input every other number is the transport's own; the last one, too, which it tells when
// nothing else comes.
class Sparse final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    if (topic != "asked") return inner_->Subscribe(topic, partition, offset);
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, (offset + 1) / 2));
    return std::make_unique<Reader>(std::move(inner), offset,
                                    [this] { return Must(End("asked", 0)).offset; });
  }
  Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
    LEAT_ASSIGN(auto end, inner_->End(topic, partition));
    if (topic == "asked") end.offset *= 2;
    return end;
  }

 private:
  class Reader final : public bus::Subscription {
   public:
    Reader(std::unique_ptr<bus::Subscription> inner, uint64_t next, std::function<uint64_t()> end)
        : inner_(std::move(inner)), next_(next), end_(std::move(end)) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      auto status = inner_->Poll(limits, batch);
      for (auto& message : batch->messages) {
        message.offset *= 2;
        if (message.offset > next_) message.vacant = message.offset - next_;
        next_ = message.offset + 1;
      }
      if (const uint64_t end = end_(); batch->messages.empty() && next_ + 1 == end) {
        batch->vacant_to = end;
      }
      return status;
    }
    void Seek(uint64_t offset) override {
      next_ = offset;
      inner_->Seek((offset + 1) / 2);
    }
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    uint64_t next_;
    std::function<uint64_t()> end_;
  };
};

TEST_CASE("who takes over decides all that was not decided, also where offsets are vacant") {
  for (const bool follows : {false, true}) {
    CAPTURE(follows);
    World world;
    Sparse sparse(world.transport.get());
    const auto inputs = [&] { return 2 * world.expected.inputs; };  // the offset behind the last
    CounterPart second(world.temp.Sub("second"), &sparse);
    {
      CounterPart first(world.temp.Sub("first"), &sparse);
      Must(first.Own({}));
      for (int i = 0; i < 4; ++i) world.Ask("a", 1);
      REQUIRE(first.WaitDone(inputs()));
      if (follows) {
        Must(second.Follow());
        REQUIRE(Until([&] { return second.owned().published() == 4; }));
      }
    }
    for (int i = 0; i < 6; ++i) world.Ask("a", 1);
    Must(second.Own({}));
    REQUIRE(second.WaitDone(inputs()));
    CHECK(test::Rows(second.owned().shard()->database()) == world.expected.rows);
    CHECK(second.owned().shard()->log()->size() == 10);
  }
}

// Shard "first" owned the partition, and has in its log what it decided and did not publish: what a feed may have when it
// loses its partition. Shard "second" owns it now.
std::unique_ptr<CounterPart> GoAnotherWay(World& world) {
  {
    CounterPart first(world.temp.Sub("first"), world.transport.get());
    Must(first.Own({}));
    world.Ask("a", 1);
    REQUIRE(first.WaitDone(1));
    first.Rest();
    Decision mine;
    mine.Add("counter-a", test::kCounted, 5, "a", "a=2", "mine");
    Counter counter;
    const auto shard = first.owned().shard();
    Must(StageDecision(shard.get(), &counter, mine, nullptr));
    Must(shard->Commit(true));
  }
  auto second = std::make_unique<CounterPart>(world.temp.Sub("second"), world.transport.get());
  Must(second->Own({}));
  world.Ask("a", 2);
  REQUIRE(second->WaitDone(2));
  return second;
}

TEST_CASE("a log that went another way is put aside, and built anew from the topic") {
  for (const bool follows : {false, true}) {
    CAPTURE(follows);
    World world;
    const auto second = GoAnotherWay(world);
    CounterPart first(world.temp.Sub("first"), world.transport.get());
    if (follows) {
      Must(first.Follow());
    } else {
      Must(first.Own({}));
      REQUIRE(first.WaitDone(2));
    }
    REQUIRE(Until([&] { return first.owned().published() == world.expected.events.size(); }));
    CHECK(test::ReadLog(*first.owned().shard()->log()) == world.expected.events);
    CHECK(test::Rows(first.owned().shard()->database()) == world.expected.rows);
    CHECK(std::filesystem::exists(world.temp.Sub("first") + ".aside"));
    world.CheckTopic();
  }
}

TEST_CASE("a log that is to be put aside is let go by its readers first") {
  World world;
  const auto second = GoAnotherWay(world);
  second->Rest();
  CounterPart first(world.temp.Sub("first"), world.transport.get());
  auto reader = first.owned().shard();
  const uint64_t size = reader->log()->size();
  const auto refused = first.Own({});
  CHECK(test::ClassOf(refused) == ErrorClass::kUnavailable);
  CHECK(refused.error().message.find("is being read") != std::string::npos);
  CHECK(reader->log()->size() == size);
  CHECK(first.owned().shard() == reader);
  reader.reset();
  Must(first.Own({}));
  REQUIRE(first.WaitDone(2));
  CHECK(test::ReadLog(*first.owned().shard()->log()) == world.expected.events);
}

TEST_CASE("members of a role take turns, and a part that fails is tried again") {
  World world;
  const auto open = [&](const std::string& name) {
    RoleOptions options;
    options.name = "counter";
    options.topic = "asked";
    options.standby = true;
    return Must(Role::Open(options, [&](uint32_t) -> Result<std::unique_ptr<Part>> {
      return std::make_unique<CounterPart>(world.temp.Sub(name), world.transport.get());
    }));
  };
  const auto one = open("one");
  const auto two = open("two");
  std::atomic<int> told{0}, refused{2};
  const auto on_owned = [&](uint32_t, bool owned) -> Status {
    if (owned && refused-- > 0) return Fail(ErrorClass::kUnavailable, "not yet");
    told += owned ? 1 : -1;
    return {};
  };
  one->Join(world.transport.get(), "one", on_owned);
  REQUIRE(Until([&] { return one->Owns(0); }));
  CHECK(told == 1);
  two->Join(world.transport.get(), "two", [](uint32_t, bool) { return Status(); });
  REQUIRE(Until([&] { return two->state(0) == PartState::kFollowing; }));
  world.Ask("a", 3);
  REQUIRE(static_cast<CounterPart*>(one->part(0))->WaitDone(1));
  one->Stop();
  CHECK(told == 0);
  CHECK(one->state(0) == PartState::kResting);
  REQUIRE(Until([&] { return two->Owns(0); }));
  world.Ask("a", 1);
  REQUIRE(static_cast<CounterPart*>(two->part(0))->WaitDone(2));
  world.CheckTopic();
  CHECK(two->error());
  CHECK(one->error());
}

}  // namespace
}  // namespace leat::runtime
