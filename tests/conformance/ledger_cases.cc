#include "tests/conformance/ledger_cases.h"

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "chain/v1/chain.pb.h"
#include "core/amount.h"
#include "events/registry.h"
#include "producers/ledger/service.h"
#include "tests/support/counter.h"
#include "tests/support/freezing_transport.h"
#include "tests/support/until.h"

namespace leat::conformance {
namespace {

using ledger::kLedgerEntriesTopic;
using test::Must;
using test::Until;

constexpr std::string_view kFacts = "facts";
constexpr std::string_view kChain = "eip155:7";

std::string Filled(size_t bytes, int with) { return std::string(bytes, static_cast<char>(with)); }

events::Event Fact(std::string_view type, const google::protobuf::MessageLite& message) {
  static int facts = 0;
  test::EventParts parts;
  parts.type = type;
  parts.id = std::to_string(++facts);
  parts.source = "//facts";
  parts.subject = parts.key = kChain;
  parts.data = message.SerializeAsString();
  return test::MakeEvent(parts);
}

// Hashes are a byte, over and over. Each of its rewards is an event of the ledger's.
events::Event Block(uint64_t number, int hash, int parent, int rewards, uint32_t part = 1, uint32_t parts = 1) {
  chain::v1::BlockObserved block;
  block.set_chain(std::string(kChain));
  block.set_part(part);
  block.set_parts(parts);
  block.mutable_header()->set_number(number);
  block.mutable_header()->set_hash(Filled(32, hash));
  block.mutable_header()->set_parent_hash(Filled(32, parent));
  block.mutable_header()->set_timestamp_s(1000 + number);
  for (int i = 0; i < rewards; ++i) {
    auto* const transfer = block.add_system_transfers();
    transfer->set_kind(number == 0 ? chain::v1::SYSTEM_TRANSFER_GENESIS
                                   : chain::v1::SYSTEM_TRANSFER_BLOCK_REWARD);
    transfer->set_to(Filled(20, i + 1));
    transfer->set_value(Amount(1000 + static_cast<uint64_t>(hash)).Magnitude());
  }
  return Fact(events::kBlockObserved, block);
}

// A chain whose first block is in parts, and whose second one falls off again; the last of them comes when another owner is there.
std::vector<events::Event> Facts() {
  chain::v1::BlockReverted reverted;
  reverted.set_chain(std::string(kChain));
  reverted.set_number(2);
  reverted.set_hash(Filled(32, 3));
  reverted.set_parent_hash(Filled(32, 2));
  reverted.set_replaced_by(Filled(32, 4));
  return {Block(0, 1, 0, 3), Block(1, 2, 1, 2, 1, 4), Block(1, 2, 1, 1, 2, 4), Block(1, 2, 1, 0, 3, 4),
          Block(1, 2, 1, 1, 4, 4), Block(2, 3, 2, 1), Fact(events::kBlockReverted, reverted),
          Block(2, 4, 2, 2)};
}

// What others see of the ledger's partition, as test::ReadTopic has it.
std::vector<std::string> Counted(bus::Transport& transport, uint32_t partition) {
  return test::ReadTopic(transport, std::string(kLedgerEntriesTopic), partition);
}

// How many of the first so many events are of whole decisions: these end with their cause's "n/m".
uint64_t Whole(const std::vector<std::string>& events, uint64_t count) {
  const auto ends = [](const std::string& event) {
    const auto n = event.rfind('#') + 1, m = event.rfind('/') + 1;
    return event.substr(n, m - 1 - n) == event.substr(m);
  };
  while (count > 0 && !ends(events[count - 1])) --count;
  return count;
}

// Everything in it but claims.
uint64_t Written(bus::Transport& transport, uint32_t partition) {
  const uint64_t end = Must(transport.End(kLedgerEntriesTopic, partition)).offset;
  const auto subscription = Must(transport.Subscribe(kLedgerEntriesTopic, partition, 0));
  bus::MessageBatch batch;
  uint64_t count = 0;
  for (uint64_t next = 0; next < end;) {
    Must(subscription->Poll({}, &batch));
    for (const auto& message : batch.messages) {
      next = message.offset + 1;
      count += message.event.type != events::kShardClaimed;
    }
    next = std::max(next, batch.vacant_to);
  }
  return count;
}

std::unique_ptr<ledger::Service> Open(const std::string& path, bus::Transport* transport, uint32_t partition) {
  ledger::ServiceOptions options;
  options.path = path;
  options.input_topic = kFacts;
  options.partition = partition;
  options.relayed = true;
  return Must(ledger::Service::Open(options, transport));
}

// Owns the partition, and has decided and published what came of so many facts.
void OwnAndFinish(ledger::Service& service, uint64_t facts) {
  Status owned;
  Until([&] { return (owned = service.Own({})) || !owned.error().Retryable(); });
  Must(owned);
  REQUIRE(service.WaitApplied(facts, kPatience));
  REQUIRE(service.WaitPublished(kPatience));
}

void CreateTopics(bus::Transport& transport, uint32_t partitions) {
  Must(transport.CreateTopic(kFacts, partitions));
  Must(transport.CreateTopic(kLedgerEntriesTopic, partitions, {.owner = "ledger"}));
}

// Undisturbed, on the embedded transport: what everything else has to come to.
std::vector<std::string> Undisturbed(const std::vector<events::Event>& facts) {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  CreateTopics(*transport, 1);
  Must(transport->PublishTo(kFacts, 0, facts));
  const auto service = Open(temp.Sub("ledger"), transport.get(), 0);
  OwnAndFinish(*service, facts.size());
  return Counted(*transport, 0);
}

// A process that is killed once it has published so many events of the ledger's: nothing of it reaches the topic from then on.
class Killed final : public test::ForwardingTransport {
 public:
  Killed(bus::Transport* inner, uint64_t events) : ForwardingTransport(inner), left_(events) {}

  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override {
    if (events.front().view().type == events::kShardClaimed) return inner_->PublishTo(topic, partition, events);
    std::lock_guard lock(mutex_);
    const auto now = static_cast<ptrdiff_t>(std::min<uint64_t>(left_, events.size()));
    left_ -= static_cast<uint64_t>(now);
    if (now > 0) LEAT_TRY(inner_->PublishTo(topic, partition, {events.begin(), events.begin() + now}));
    if (static_cast<size_t>(now) == events.size()) return {};
    killed_ = true;
    changed_.notify_all();
    return Fail(ErrorClass::kUnavailable, "killed");
  }
  bool Wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return killed_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t left_;  // guarded by mutex_, as the other
  bool killed_ = false;
};

}  // namespace

void KilledAtEveryBoundary(Case& c) {
  const auto facts = Facts();
  const auto expected = Undisturbed(facts);
  const auto boundaries = static_cast<uint32_t>(expected.size() + 1);
  c.Expect(boundaries > 12, "events are decided");
  CreateTopics(c.transport(), 2 * boundaries);
  test::TempFolder temp;
  for (uint32_t partition = 0; partition < 2 * boundaries; ++partition) {
    const uint64_t published = partition / 2;
    const bool is_warm = partition % 2 == 1;
    CAPTURE(published);
    CAPTURE(is_warm);
    c.Take(c.transport().PublishTo(kFacts, partition, facts));
    const std::string path = temp.Sub("ledger-" + std::to_string(partition));
    Killed killed(&c.transport(), published);
    {
      const auto service = Open(path, &killed, partition);
      c.Take(service->Own({}));
      if (published < expected.size()) {
        c.Expect(killed.Wait(), "it is killed in time");
      } else {
        c.Expect(service->WaitApplied(facts.size(), kPatience) && service->WaitPublished(kPatience), "all is published");
      }
    }
    c.Equal(Written(c.transport(), partition), published, "events before the kill");
    std::filesystem::remove_all(path);
    const auto service = Open(path, &c.transport(), partition);
    if (is_warm) {
      c.Take(service->Follow());
      c.Expect(Until([&] { return service->decided() == Whole(expected, published); }), "the copy has all whole decisions");
    }
    OwnAndFinish(*service, facts.size());
    c.Equal(Counted(c.transport(), partition), expected, "what others see");
    c.Equal(Written(c.transport(), partition), uint64_t{expected.size()}, "nothing is there twice");
    c.Equal(test::ReadLog(*service->shard()->log()), expected, "the log of the next owner");
  }
}

void OwnerFrozenAtEveryStep(Case& c) {
  constexpr int kStepsMax = 120;
  constexpr int kStepsLeast = 20;  // the claim and its reading back, and those of every event
  auto facts = Facts();
  const auto expected = Undisturbed(facts);
  const uint64_t all = facts.size();
  const events::Event last = facts.back();
  facts.pop_back();
  CreateTopics(c.transport(), kStepsMax);
  test::TempFolder temp;
  int step = 0;
  for (uint32_t partition = 0;; ++partition, ++step) {
    CAPTURE(step);
    c.Expect(step < kStepsMax, "the steps end");
    c.Take(c.transport().PublishTo(kFacts, partition, facts));
    test::Freezing freezing(&c.transport(), step);
    const std::string path = temp.Sub("ledger-" + std::to_string(partition));
    const auto first = Open(path + "-first", &freezing, partition);
    std::jthread owner([&] {
      const auto owned = first->Own({});
      // Two that claim at the same time: one of them has to try again.
      if (!owned) CHECK(core::ErrorClassName(owned.error().error_class) == "conflict");
    });
    const auto done = [&] {
      return first->applied() >= facts.size() && first->WaitPublished(std::chrono::milliseconds(0));
    };
    c.Expect(Until([&] { return freezing.frozen() || done(); }), "it is frozen, or through");
    const bool frozen = freezing.frozen();
    if (frozen) {
      const auto second = Open(path + "-second", &c.transport(), partition);
      OwnAndFinish(*second, facts.size());
      c.Take(c.transport().PublishTo(kFacts, partition, {last}));
      c.Expect(second->WaitApplied(all, kPatience) && second->WaitPublished(kPatience), "the second goes on");
      c.Equal(Counted(c.transport(), partition), expected, "while the first is frozen");
      freezing.Thaw();
      owner.join();
      // What it had in its hands comes late; then it knows, unless it only claims now.
      c.Expect(Until([&] { return !first->error() || !second->error() || first->standing().epoch == 0; }),
               "one of them knows");
      c.Equal(Counted(c.transport(), partition), expected, "after it went on");
    } else {
      freezing.Thaw();  // for good
      owner.join();
      c.Take(c.transport().PublishTo(kFacts, partition, {last}));
    }
    first->Rest();
    OwnAndFinish(*first, all);
    c.Equal(Counted(c.transport(), partition), expected, "when it owns it again");
    c.Equal(test::ReadLog(*first->shard()->log()), expected, "the first one's log");
    if (!frozen) break;
  }
  c.Expect(step >= kStepsLeast, "it has steps");
}

}  // namespace leat::conformance
