#include <doctest/doctest.h>

#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "runtime/projection_runner.h"
#include "runtime/shard.h"
#include "tests/support/counter.h"
#include "tests/support/forwarding_transport.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using bus::EmbeddedTransport;
using test::CounterProjection;
using test::Must;
using test::TempFolder;

constexpr auto kPatience = std::chrono::seconds(60);

std::unique_ptr<Shard> OpenShard(const std::string& path, bool has_log = false) {
  ShardOptions options;
  options.path = path;
  options.name = "projection-0";
  options.has_log = has_log;
  options.resources = test::SmallResources();
  return Must(Shard::Open(options));
}

RunnerOptions Input() {
  RunnerOptions options;
  options.topic = "counted";
  return options;
}

void Publish(EmbeddedTransport& transport, const std::string& data) {
  Must(transport.Publish("counted", {test::CountedInput(data)}));
}

struct World {
  TempFolder temp;
  std::unique_ptr<EmbeddedTransport> transport;
  World() { Open(); }
  void Open() {
    transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));
    Must(transport->CreateTopic("counted", 1));
  }
  void Recreate() {
    transport.reset();
    std::filesystem::remove_all(temp.Sub("bus"));
    Open();
  }
};

TEST_CASE("a projection applies everything once over restarts") {
  World world;
  uint64_t events = 0;
  for (int round = 0; round < 6; ++round) {
    const auto shard = OpenShard(world.temp.Sub("shard"));
    CounterProjection projection;
    ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
    Must(runner.Start());
    CHECK(projection.loads == 1);
    for (int i = 0; i < 25; ++i, ++events) Publish(*world.transport, "a=" + std::to_string(i));
    if (round % 2 == 0) continue;  // stopped anywhere
    REQUIRE(runner.status().WaitApplied(events, kPatience));
    const auto view = runner.view();
    CHECK(view->input.next == events);
    std::string value;
    REQUIRE(Must(view->Get("c/a", &value)));
    CHECK(value == std::to_string(events));
    CHECK(*static_cast<const uint64_t*>(view->summary.get()) == events);
    // Rows that pass the cache by are committed with the others.
    CHECK(test::Rows(shard->database()).size() == events + 1);
  }
}

TEST_CASE("a view does not change") {
  World world;
  const auto shard = OpenShard(world.temp.Sub("shard"));
  CounterProjection projection;
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
  Must(runner.Start());
  const auto empty = runner.view();
  const uint64_t generation = runner.generation();
  Publish(*world.transport, "a=1");
  REQUIRE(runner.status().WaitApplied(1, kPatience));
  const auto one = runner.view();
  CHECK(runner.generation() > generation);
  for (int i = 0; i < 20; ++i) Publish(*world.transport, "a=2");
  REQUIRE(runner.status().WaitApplied(21, kPatience));
  std::string value;
  CHECK_FALSE(Must(empty->Get("c/a", &value)));
  CHECK(empty->input.next == 0);
  REQUIRE(Must(one->Get("c/a", &value)));
  CHECK(value == "1");
  CHECK(one->input.next == 1);
  const auto rows = one->Iterate();
  size_t count = 0;
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) ++count;
  CHECK(count == 2);
}

TEST_CASE("views beside the writer are whole commits") {
  World world;
  const auto shard = OpenShard(world.temp.Sub("shard"));
  CounterProjection projection;
  RunnerOptions options = Input();
  options.commit_bytes = 200;  // many commits
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), options);
  Must(runner.Start());
  constexpr uint64_t kEvents = 2000;
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> readers;
    for (int i = 0; i < 2; ++i) {
      readers.emplace_back([&] {
        uint64_t seen = 0;
        while (seen < kEvents) {
          const auto view = runner.view();
          std::string value;
          const auto found = view->Get("c/a", &value);
          const uint64_t count = found && *found ? std::stoull(value) : 0;
          // Rows, position and summary are of one moment, which never goes back.
          if (count != view->input.next) ++wrong;
          if (count != *static_cast<const uint64_t*>(view->summary.get())) ++wrong;
          if (count < seen) ++wrong;
          seen = count;
        }
      });
    }
    for (uint64_t i = 0; i < kEvents; i += 20) {
      std::vector<events::Event> batch;
      for (int j = 0; j < 20; ++j) batch.push_back(test::CountedInput("a=1"));
      Must(world.transport->Publish("counted", batch));
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("a projection of an input that was created anew is built anew") {
  World world;
  for (int i = 0; i < 5; ++i) Publish(*world.transport, "old=1");
  {
    const auto shard = OpenShard(world.temp.Sub("shard"));
    CounterProjection projection;
    ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(5, kPatience));
  }
  world.Recreate();
  for (int i = 0; i < 7; ++i) Publish(*world.transport, "new=1");
  for (int round = 0; round < 2; ++round) {
    const auto shard = OpenShard(world.temp.Sub("shard"));
    CounterProjection projection;
    ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(7, kPatience));
    std::string value;
    const auto view = runner.view();
    CHECK_FALSE(Must(view->Get("c/old", &value)));
    REQUIRE(Must(view->Get("c/new", &value)));
    CHECK(value == "7");
    CHECK(*static_cast<const uint64_t*>(view->summary.get()) == 7);
  }
}

TEST_CASE("a projection of a shorter input is built anew") {
  // As after a power loss that took the end of a log which was not synced.
  World world;
  for (int i = 0; i < 5; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  const auto end = Must(world.transport->End("counted", 0));
  shard->state().Put("c/stray", "3");
  shard->SetInput("counted", 0, {6, end.incarnation});
  Must(shard->Commit(false));
  CounterProjection projection;
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(5, kPatience));
  std::string value;
  CHECK_FALSE(Must(runner.view()->Get("c/stray", &value)));
  REQUIRE(Must(runner.view()->Get("c/a", &value)));
  CHECK(value == "5");
}

// A transport that does not tell incarnations, and may leave an offset out.
class Odd final : public test::ForwardingTransport {
 public:
  Odd(bus::Transport* inner, uint64_t missing) : ForwardingTransport(inner), missing_(missing) {}
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    return inner_->Subscribe(topic, partition, offset == missing_ ? offset + 1 : offset);
  }
  Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
    LEAT_ASSIGN(auto end, inner_->End(topic, partition));
    end.incarnation = 0;
    return end;
  }

 private:
  uint64_t missing_;
};

TEST_CASE("a transport that does not tell incarnations does not make a projection start anew") {
  World world;
  for (int i = 0; i < 5; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  {
    CounterProjection projection;
    ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
    Must(runner.Start());
    REQUIRE(runner.status().WaitApplied(5, kPatience));
  }
  shard->state().Put("kept", "x");
  Must(shard->Commit(true));
  CounterProjection projection;
  Odd odd(world.transport.get(), UINT64_MAX);
  ProjectionRunner runner(shard.get(), &projection, &odd, Input());
  Must(runner.Start());
  std::string value;
  CHECK(Must(runner.view()->Get("kept", &value)));
}

TEST_CASE("a gap in the input stops a projection, and so does an error of its own") {
  World world;
  for (int i = 0; i < 5; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  {
    CounterProjection projection;
    Odd odd(world.transport.get(), 0);
    ProjectionRunner runner(shard.get(), &projection, &odd, Input());
    Must(runner.Start());
    CHECK_FALSE(runner.status().WaitApplied(1, kPatience));
    CHECK(test::ClassOf(runner.status().error()) == ErrorClass::kCorrupt);
  }
  Publish(*world.transport, "!");
  CounterProjection projection;
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), Input());
  Must(runner.Start());
  CHECK_FALSE(runner.status().WaitApplied(6, kPatience));
  CHECK(test::ClassOf(runner.status().error()) == ErrorClass::kInternal);
  // Started again it forgets what the error left staged, and applies nothing twice.
  RunnerOptions before = Input();
  before.stop_at = 5;
  CounterProjection anew;
  ProjectionRunner again(shard.get(), &anew, world.transport.get(), before);
  Must(again.Start());
  REQUIRE(again.status().WaitApplied(5, kPatience));
  std::string value;
  REQUIRE(Must(again.view()->Get("c/a", &value)));
  CHECK(value == "5");
}

TEST_CASE("what a stranger's event is at fault for is one dead letter, and the projection goes on") {
  World world;
  for (const char* const data : {"a=1", "half=1", "at fault", "a=1", "unheard of", "half=2", "a=1"}) {
    Publish(*world.transport, data);
  }
  const auto shard = OpenShard(world.temp.Sub("shard"));
  CounterProjection projection;
  RunnerOptions options = Input();
  SUBCASE("many in a commit") {}
  SUBCASE("one in a commit") { options.commit_bytes = 1; }
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), options);
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(7, kPatience));
  std::string value;
  REQUIRE(Must(runner.view()->Get("c/a", &value)));
  CHECK(value == "3");
  CHECK_FALSE(Must(runner.view()->Get("c/half", &value)));
  CHECK(*std::static_pointer_cast<const uint64_t>(runner.view()->summary) == 3);
  CHECK(test::DeadLetters(*world.transport, "counted") ==
        std::vector<std::string>{"half=1", "at fault", "unheard of", "half=2"});
}

// Gives one message at a time after it was told to begin elsewhere.
class Reluctant final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Reader>(std::move(inner));
  }

 private:
  class Reader final : public bus::Subscription {
   public:
    explicit Reader(std::unique_ptr<bus::Subscription> inner) : inner_(std::move(inner)) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      bus::PollLimits fewer = limits;
      if (sought_) fewer.messages_max = 1;
      return inner_->Poll(fewer, batch);
    }
    void Seek(uint64_t offset) override {
      sought_ = true;
      inner_->Seek(offset);
    }
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    bool sought_ = false;
  };
};

TEST_CASE("what is read again in other pieces is one dead letter, too") {
  World world;
  for (const char* const data : {"a=1", "a=2", "half=1", "a=3"}) Publish(*world.transport, data);
  const auto shard = OpenShard(world.temp.Sub("shard"));
  CounterProjection projection;
  Reluctant reluctant(world.transport.get());
  ProjectionRunner runner(shard.get(), &projection, &reluctant, Input());
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(4, kPatience));
  CHECK(test::DeadLetters(*world.transport, "counted") == std::vector<std::string>{"half=1"});
}

// The last offset is the transport's own, and so is all from `first` on when a message comes after it.
class Ending final : public test::ForwardingTransport {
 public:
  Ending(bus::Transport* inner, uint64_t first) : ForwardingTransport(inner), first_(first) {}
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, std::min(offset, first_)));
    return std::make_unique<Reader>(std::move(inner), first_);
  }
  Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
    LEAT_ASSIGN(auto end, inner_->End(topic, partition));
    end.offset += kOwn;
    return end;
  }
  static constexpr uint64_t kOwn = 3;

 private:
  class Reader final : public bus::Subscription {
   public:
    Reader(std::unique_ptr<bus::Subscription> inner, uint64_t first)
        : inner_(std::move(inner)), first_(first) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      auto status = inner_->Poll(limits, batch);
      for (auto& message : batch->messages) {
        if (message.offset < first_) continue;
        if (message.offset == first_) message.vacant = kOwn;
        message.offset += kOwn;
      }
      if (batch->messages.empty()) batch->vacant_to = first_ + kOwn;
      return status;
    }
    void Seek(uint64_t) override {}
    void Wake() override { inner_->Wake(); }

   private:
    std::unique_ptr<bus::Subscription> inner_;
    uint64_t first_;
  };
  uint64_t first_;
};

TEST_CASE("a projection is at the end of an input that ends with vacant offsets") {
  World world;
  for (int i = 0; i < 5; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  Ending ending(world.transport.get(), 5);
  CounterProjection projection;
  {
    ProjectionRunner runner(shard.get(), &projection, &ending, Input());
    Must(runner.Start());
    CHECK(runner.status().WaitApplied(Must(ending.End("counted", 0)).offset, kPatience));
  }
  ProjectionRunner runner(shard.get(), &projection, &ending, Input());
  Must(runner.Start());
  Publish(*world.transport, "a=1");
  REQUIRE(runner.status().WaitApplied(5 + Ending::kOwn + 1, kPatience));
  std::string value;
  REQUIRE(Must(runner.view()->Get("c/a", &value)));
  CHECK(value == "6");
}

TEST_CASE("a projection ends where it is to stop among vacant offsets") {
  World world;
  for (int i = 0; i < 6; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  Ending ending(world.transport.get(), 5);
  CounterProjection projection;
  RunnerOptions options = Input();
  options.stop_at = 6;  // 5 to 7 are vacant, and 8 is the sixth
  ProjectionRunner runner(shard.get(), &projection, &ending, options);
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(6, kPatience));
  std::string value;
  REQUIRE(Must(runner.view()->Get("c/a", &value)));
  CHECK(value == "5");
}

TEST_CASE("a projection that stops at an offset") {
  World world;
  for (int i = 0; i < 50; ++i) Publish(*world.transport, "a=1");
  const auto shard = OpenShard(world.temp.Sub("shard"));
  CounterProjection projection;
  RunnerOptions options = Input();
  options.stop_at = 20;
  ProjectionRunner runner(shard.get(), &projection, world.transport.get(), options);
  Must(runner.Start());
  REQUIRE(runner.status().WaitApplied(20, kPatience));
  CHECK_FALSE(runner.status().WaitApplied(21, std::chrono::milliseconds(300)));
  CHECK(runner.status().error().has_value());
  CHECK(runner.view()->input.next == 20);
  std::string value;
  REQUIRE(Must(runner.view()->Get("c/a", &value)));
  CHECK(value == "20");
}

// ---- state

TEST_CASE("rows as their service sees them, against a plain map") {
  const uint64_t seed = test::Seed(8);
  INFO("LEAT_SEED=", seed);
  test::Random random(seed);
  const TempFolder temp;
  std::map<std::string, std::string> staged, committed;
  auto shard = OpenShard(temp.Sub("shard"));
  uint64_t uncached = 0;
  for (int step = 0; step < 5000; ++step) {
    const std::string key = "k" + std::to_string(test::Below(random, 40));
    switch (test::Below(random, 12)) {
      case 0: case 1: case 2: {
        const std::string value = test::RandomBytes(random, test::Below(random, 20));
        shard->state().Put(key, value);
        staged[key] = value;
        break;
      }
      case 3: case 4:
        shard->state().Delete(key);
        staged.erase(key);
        break;
      case 5: {
        const std::string once = "u" + std::to_string(uncached++);
        shard->state().PutUncached(once, key);
        staged[once] = key;
        break;
      }
      case 6:
        if (test::Below(random, 8) == 0) {
          Must(shard->Commit(false));
          committed = staged;
          REQUIRE(test::Rows(shard->database()) == committed);
        }
        break;
      case 7:
        if (test::Below(random, 60) == 0) {  // killed
          shard.reset();
          shard = OpenShard(temp.Sub("shard"));
          staged = committed;
        }
        break;
      case 8:
        if (test::Below(random, 200) == 0) {
          Must(shard->ClearRows());
          staged.clear();
          committed.clear();
        }
        break;
      default: {
        std::string value = "untouched";
        const bool found = Must(shard->state().Get(key, &value));
        const auto expected = staged.find(key);
        REQUIRE(found == (expected != staged.end()));
        REQUIRE(value == (found ? expected->second : "untouched"));
      }
    }
  }
}

TEST_CASE("rows are right while the cache's generations change") {
  constexpr int kRows = (1 << 20) + 1000;  // more than a generation holds
  const TempFolder temp;
  const auto shard = OpenShard(temp.Sub("shard"));
  const auto key = [](int i) { return std::to_string(i); };
  const auto fill = [&](int from) {
    for (int i = from; i < from + kRows; ++i) shard->state().Put(key(i), "a");
    Must(shard->Commit(false));
  };
  const auto get = [&](int i) {
    std::string value;
    return Must(shard->state().Get(key(i), &value)) ? value : std::string("none");
  };
  fill(0);  // the first is the old generation now
  CHECK(get(5) == "a");
  shard->state().Put(key(6), "b");
  shard->state().Delete(key(7));
  CHECK(get(-1) == "none");
  shard->state().Put(key(-1), "new");
  CHECK(get(6) == "b");
  CHECK(get(7) == "none");
  Must(shard->Commit(false));
  CHECK(get(-1) == "new");
  shard->state().Put(key(8), "c");
  if (test::Full()) {
    fill(kRows);  // the second generation change forgets what was not used
  } else {
    MESSAGE("one generation change only; LEAT_FULL=1 makes two");
    Must(shard->Commit(false));
  }
  for (int round = 0; round < 2; ++round) {
    CHECK(get(5) == "a");
    CHECK(get(6) == "b");
    CHECK(get(7) == "none");
    CHECK(get(8) == "c");
    CHECK(get(-1) == "new");
    CHECK(get(9) == "a");
    CHECK(get(3 * kRows) == "none");
    shard->state().Delete(key(9));
    shard->state().Put(key(9), "a");
    Must(shard->Commit(false));
  }
}

}  // namespace
}  // namespace leat::runtime
