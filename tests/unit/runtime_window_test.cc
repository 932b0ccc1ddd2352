// Events of foreign producers that are published again: within the window they count once.
#include <doctest/doctest.h>

#include <set>

#include "bus/embedded/embedded_transport.h"
#include "runtime/decider_runner.h"
#include "runtime/inbox.h"
#include "runtime/projection_runner.h"
#include "runtime/relay.h"
#include "runtime/shard.h"
#include "runtime/window.h"
#include "tests/support/counter.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using bus::EmbeddedTransport;
using test::Below;
using test::Counter;
using test::CounterProjection;
using test::Must;
using test::Random;
using test::TempFolder;

constexpr auto kPatience = std::chrono::seconds(60);

events::Event Named(const std::string& id, const std::string& data,
                    const std::string& source = "//somebody") {
  test::EventParts parts;
  parts.id = id;
  parts.source = source;
  parts.data = data;
  return test::MakeEvent(parts);
}

// What asks the counter to count one up.
events::Event Ask(const std::string& id, const std::string& source = "//somebody") {
  return Named(id, "k+1", source);
}

std::string Number(uint64_t n) { return std::to_string(n); }

RunnerOptions On(const std::string& topic) {
  RunnerOptions options;
  options.topic = topic;
  return options;
}

// A topic that anybody may write, and a decider's shard and a projection's on it.
struct World {
  TempFolder temp;
  std::unique_ptr<EmbeddedTransport> transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
  std::unique_ptr<Shard> decider;
  std::unique_ptr<Shard> projection;
  uint64_t published = 0;
  uint64_t free_bytes = UINT64_MAX;

  World() {
    Must(transport->CreateTopic("asked", 1));
    Must(transport->CreateTopic("counted", 1, {.owner = "counter"}));
    Open();
  }
  void Open() {
    ShardOptions options;
    options.resources = test::SmallResources();
    options.free_bytes = [this] { return free_bytes; };
    options.path = temp.Sub("projection");
    options.name = "projection-0";
    projection.reset();
    projection = Must(Shard::Open(options));
    options.path = temp.Sub("decider");
    options.name = "counter-0";
    options.has_log = true;
    decider.reset();
    decider = Must(Shard::Open(options));
  }
  void Publish(const std::vector<events::Event>& events) {
    Must(transport->Publish("asked", events));
    published += events.size();
  }
  // How many counted, in both: the decider asks for one up each, the projection takes what it is
  // told.
  struct Counted {
    uint64_t decided;
    uint64_t applied;
    bool operator==(const Counted&) const = default;
  };
  Counted Run() {
    {
      Counter counter;
      Ones ones;
      DeciderRunner deciding(decider.get(), &counter, transport.get(), On("asked"));
      ProjectionRunner projecting(projection.get(), &ones, transport.get(), On("asked"));
      Must(deciding.Start());
      Must(projecting.Start());
      REQUIRE(deciding.status().WaitApplied(published, kPatience));
      REQUIRE(projecting.status().WaitApplied(published, kPatience));
    }
    return {decider->log()->size(), Total()};
  }
  uint64_t Total() const {
    std::string value;
    const bool found = Must(projection->database().Get(eventstore::Family::kRows, "n", &value));
    return found ? std::stoull(value) : 0;
  }
  static size_t WindowRows(const Shard& shard) {
    size_t rows = 0;
    const auto keys = shard.database().NewIterator(eventstore::Family::kKeys);
    for (keys->SeekToFirst(); keys->Valid(); keys->Next())
      rows += keys->key().starts_with("window/");
    return rows;
  }

  // Counts whatever comes.
  class Ones final : public Projection {
   public:
    Status Evolve(State* state, const events::EventView&, uint64_t) override {
      std::string value;
      LEAT_ASSIGN(const bool found, state->Get("n", &value));
      state->Put("n", Number((found ? std::stoull(value) : 0) + 1));
      return {};
    }
    Status Load(const State&) override { return {}; }
  };
};

using Counted = World::Counted;

Ownership Claim(World& world, Counter* counter) {
  const auto claimed = Must(ClaimTopic({}, world.decider.get(), counter, world.transport.get(),
                                       "counted", 0, On("asked"), nullptr));
  REQUIRE(claimed.has_value());
  return *claimed;
}

TEST_CASE("what the window holds") {
  Window window;
  CHECK(window.Add("a", "1"));
  CHECK_FALSE(window.Add("a", "1"));
  CHECK(window.Add("a", "2"));
  CHECK(window.Add("b", "1"));
  // Where one ends and the other begins is part of it.
  CHECK(window.Add("ab", "c"));
  CHECK(window.Add("a", "bc"));
  CHECK(window.Add("", "abc"));
  CHECK(window.Add("abc", ""));
  for (uint64_t i = 0; i < kWindowEvents - 7; ++i) CHECK(window.Add("fill", Number(i)));
  CHECK_FALSE(window.Add("a", "1"));      // the oldest
  CHECK(window.Add("fill", "one more"));  // in its place
  CHECK(window.Add("a", "1"));            // in place of a 2
  CHECK(window.Add("a", "2"));
  CHECK_FALSE(window.Add("ab", "c"));
  CHECK_FALSE(window.Add("fill", "one more"));
}

TEST_CASE("a repetition moves the position and counts once, over restarts") {
  World world;
  world.Publish({Ask("1"), Ask("2"), Ask("1")});
  CHECK(world.Run() == Counted{2, 2});
  world.Publish({Ask("2"), Ask("3"), Ask("1", "//another"), Ask("3")});
  CHECK(world.Run() == Counted{4, 4});
  world.Open();
  world.Publish({Ask("1"), Ask("2"), Ask("3"), Ask("1", "//another"), Ask("4")});
  CHECK(world.Run() == Counted{5, 5});
  CHECK(Must(world.decider->Input("asked", 0)).next == 12);
  CHECK(Must(world.projection->Input("asked", 0)).next == 12);
  CHECK(World::WindowRows(*world.decider) == 6);  // five entries, and how many
  // One commit of repetitions alone.
  world.Publish({Ask("1")});
  CHECK(world.Run() == Counted{5, 5});
  CHECK(Must(world.decider->Input("asked", 0)).next == 13);
}

TEST_CASE("beyond the window a repetition counts again, also when it was read anew meanwhile") {
  World world;
  world.Publish({Ask("first"), Ask("second"), Ask("third")});
  CHECK(world.Run() == Counted{3, 3});
  std::vector<events::Event> others;
  for (uint64_t i = 0; i < kWindowEvents - 2; ++i)
    others.push_back(Named("other " + Number(i), "k+0"));
  world.Publish(others);
  CHECK(world.Run() == Counted{3, 3 + others.size()});
  world.Open();
  CHECK(World::WindowRows(*world.decider) == kWindowEvents + 1);
  // The second is the oldest one there.
  world.Publish({Ask("second"), Ask("first"), Ask("third"), Ask("second")});
  CHECK(world.Run() == Counted{5, 5 + others.size()});
  world.Open();
  CHECK(World::WindowRows(*world.decider) == kWindowEvents + 1);
  world.Publish({Ask("first"), Ask("second"), Ask("third")});
  CHECK(world.Run() == Counted{6, 6 + others.size()});
}

TEST_CASE("the window and the position are one commit") {
  World world;
  world.Publish({Ask("1")});
  CHECK(world.Run() == Counted{1, 1});
  world.Publish({Ask("2"), Ask("2"), Ask("1")});
  world.free_bytes = 0;  // no commit is taken
  {
    Counter counter;
    DeciderRunner deciding(world.decider.get(), &counter, world.transport.get(), On("asked"));
    Must(deciding.Start());
    CHECK_FALSE(deciding.status().WaitApplied(world.published, kPatience));
    CHECK(test::ClassOf(deciding.status().error()) == ErrorClass::kExhausted);
  }
  world.free_bytes = UINT64_MAX;
  CHECK(World::WindowRows(*world.decider) == 2);
  CHECK(world.Run() == Counted{2, 2});
}

TEST_CASE("any order of new ones, repetitions and restarts, against a plain set") {
  const uint64_t seed = test::Seed(5);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  World world;
  std::set<std::string> seen;
  for (int round = 0; round < 12; ++round) {
    std::vector<events::Event> batch;
    for (uint64_t left = Below(random, 50); left > 0; --left) {
      const std::string id = Number(Below(random, 120));
      const std::string source = "//" + Number(Below(random, 3));
      batch.push_back(Ask(id, source));
      seen.insert(source + " " + id);
    }
    if (!batch.empty()) world.Publish(batch);
    if (Below(random, 3) == 0) {
      // Stopped at any moment.
      Counter counter;
      DeciderRunner deciding(world.decider.get(), &counter, world.transport.get(), On("asked"));
      Must(deciding.Start());
    }
    if (Below(random, 2) == 0) world.Open();
    CHECK(world.Run() == Counted{seen.size(), seen.size()});
  }
}

TEST_CASE("a shard that is rebuilt from its own topic comes to the same decisions") {
  World world;
  const auto run = [&] {
    Counter counter;
    const auto claim = Claim(world, &counter);
    Relay relay(world.decider.get(), world.transport.get(), "counted", 0, claim);
    Must(relay.Start());
    DeciderRunner deciding(world.decider.get(), &counter, world.transport.get(), On("asked"));
    Must(deciding.Start());
    const bool applied = deciding.status().WaitApplied(world.published, kPatience);
    if (!applied) Must(deciding.status().error());
    REQUIRE(applied);
    REQUIRE(relay.status().WaitApplied(world.decider->log()->size(), kPatience));
    return world.decider->log()->size();
  };
  const auto lose_shard = [&] {
    world.decider.reset();
    std::filesystem::remove_all(world.temp.Sub("decider"));
    world.Open();
    CHECK(world.decider->log()->size() == 0);
  };
  world.Publish(
      {Ask("1"), Named("none", "k+0"), Ask("2"), Ask("1"), Named("two", "k+2"), Ask("2")});
  CHECK(run() == 4);
  lose_shard();
  // Among what led to no event, and behind the last that did, there are repetitions, too.
  world.Publish({Named("none", "k+1"), Ask("1"), Ask("3"), Ask("2")});
  CHECK(run() == 5);
  CHECK(Must(world.decider->Input("asked", 0)).next == 10);
  lose_shard();
  CHECK(run() == 5);
  world.Publish({Ask("3"), Named("two", "k+2"), Named("none", "k+1"), Ask("4")});
  CHECK(run() == 6);
  // From the log alone: position and window stay.
  Counter counter;
  Must(RebuildFromLog(world.decider.get(), &counter, On("asked"),
                      Must(world.transport->End("asked", 0)).incarnation, nullptr));
  world.Publish({Ask("1"), Ask("4"), Ask("5")});
  CHECK(run() == 7);
  lose_shard();
  CHECK(run() == 7);
  CHECK(Must(world.decider->Input("asked", 0)).next == world.published);
}

TEST_CASE("a projection of an input that was created anew begins with an empty window") {
  World world;
  world.Publish({Ask("1"), Ask("2")});
  CHECK(world.Run().applied == 2);
  world.transport.reset();
  std::filesystem::remove_all(world.temp.Sub("bus"));
  world.transport = Must(EmbeddedTransport::Open(world.temp.Sub("bus")));
  Must(world.transport->CreateTopic("asked", 1));
  Must(world.transport->Publish("asked", {Ask("2"), Ask("2"), Ask("3"), Ask("1")}));
  World::Ones ones;
  ProjectionRunner projecting(world.projection.get(), &ones, world.transport.get(), On("asked"));
  Must(projecting.Start());
  REQUIRE(projecting.status().WaitApplied(4, kPatience));
  CHECK(world.Total() == 3);
  CHECK(World::WindowRows(*world.projection) == 4);
}

TEST_CASE("what a shard writes costs no window, relayed or mounted") {
  World world;
  for (int i = 0; i < 20; ++i) world.Publish({Ask(Number(static_cast<uint64_t>(i)))});
  {
    Counter counter;
    const auto claim = Claim(world, &counter);
    Relay relay(world.decider.get(), world.transport.get(), "counted", 0, claim);
    Must(relay.Start());
    DeciderRunner deciding(world.decider.get(), &counter, world.transport.get(), On("asked"));
    Must(deciding.Start());
    REQUIRE(deciding.status().WaitApplied(world.published, kPatience));
    REQUIRE(relay.status().WaitApplied(20, kPatience));
  }
  const auto project = [&](const std::string& topic) {
    CounterProjection counts;
    ProjectionRunner runner(world.projection.get(), &counts, world.transport.get(), On(topic));
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(Must(world.transport->End(topic, 0)).offset, kPatience));
    CHECK(World::WindowRows(*world.projection) == 0);
  };
  project("counted");
  Must(world.transport->Mount("mounted", 0, "counter", world.decider->log()));
  project("mounted");
  std::string value;
  CHECK(Must(world.projection->database().Get(eventstore::Family::kRows, "c/k", &value)));
  CHECK(value == "40");  // of either
}

TEST_CASE(
    "whoever claims a partition and whoever reads it count the same of what lay there before") {
  World world;
  const auto counted = [](const std::string& id, int n) {
    test::EventParts parts;
    parts.id = id;
    parts.subject = "counter-f";
    parts.data = "f=" + std::to_string(n);
    return test::MakeEvent(parts);
  };
  Must(world.transport->PublishTo(
      "counted", 0, {counted("x", 1), counted("x", 1), counted("y", 2), counted("x", 1)}));
  world.Publish({Ask("1")});
  Counter counter;
  const auto claim = Claim(world, &counter);
  CHECK(claim.read.next_position == 2);
  Relay relay(world.decider.get(), world.transport.get(), "counted", 0, claim);
  Must(relay.Start());
  DeciderRunner deciding(world.decider.get(), &counter, world.transport.get(), On("asked"));
  Must(deciding.Start());
  REQUIRE(relay.status().WaitApplied(3, kPatience));
  CounterProjection counts;
  ProjectionRunner runner(world.projection.get(), &counts, world.transport.get(), On("counted"));
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(Must(world.transport->End("counted", 0)).offset, kPatience));
  CHECK(Must(world.projection->Input("counted", 0)).next_position == 3);
  CHECK(test::Rows(world.projection->database()).at("c/f") == "2");
  CHECK(test::Rows(world.projection->database()).at("c/k") == "1");
}

TEST_CASE("a damaged window is an error") {
  World world;
  world.Publish({Ask("1"), Ask("2")});
  world.Run();
  const auto damaged = [&](const std::string& key, const std::string& value) {
    std::string before;
    const bool there = Must(world.decider->database().Get(eventstore::Family::kKeys, key, &before));
    const auto put = [&](const std::string& text, bool exists) {
      eventstore::Batch batch(world.decider->database());
      if (exists) {
        batch.Put(eventstore::Family::kKeys, key, text);
      } else {
        batch.Delete(eventstore::Family::kKeys, key);
      }
      Must(world.decider->database().Write(batch, true));
    };
    put(value, true);
    Window window;
    CHECK(test::ClassOf(world.decider->ReadWindow("asked", 0, &window)) == ErrorClass::kCorrupt);
    put(before, there);
    Must(world.decider->ReadWindow("asked", 0, &window));
  };
  using namespace std::string_literals;
  damaged("window/asked/0", "");
  damaged("window/asked/0", "\x03");
  damaged("window/asked/0/\0\0\0\1"s, "short");
  damaged("window/asked/0/\0\0\0\1"s, "");
  damaged("window/asked/0/x"s, "0123456789abcdef");
}

}  // namespace
}  // namespace leat::runtime
