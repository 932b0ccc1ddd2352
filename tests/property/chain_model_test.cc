// Random chains with forks, restarts and rebuilds, against a plain model in memory: the same answers at every height and
// at every position, before, during and after a reorganisation.
//
// LEAT_SEED repeats a run; LEAT_FULL=1 makes more of them.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <random>

#include "apps/node.h"
#include "chain/v1/chain.pb.h"
#include "consumers/balances/queries.h"
#include "core/hash.h"
#include "events/registry.h"
#include "tests/support/test_support.h"

namespace {

using leat::Address;
using leat::Amount;
using leat::Hash;
using Balances = std::map<std::string, Amount>;  // by address bytes; zero balances are left out

constexpr const char* kChain = "eip155:7";
constexpr int kAccounts = 7;
constexpr int kStepsPerRun = 60;
constexpr size_t kForkDepthMax = 9;
constexpr int kBranchBlocksMax = 60;

std::string AccountAt(int i) {
  std::string address(20, '\0');
  address[0] = static_cast<char>(0xa0 + i);
  address[19] = static_cast<char>(i + 1);
  return address;
}

struct ModelBlock {
  uint64_t number = 0;
  std::string hash;
  std::string parent;
  uint64_t total_difficulty = 0;
  Balances after;
};

void Add(Balances* balances, const std::string& address, const Amount& amount) {
  Amount& balance = (*balances)[address];
  balance += amount;
  if (balance.IsZero()) balances->erase(address);
}

// The chain as it should be: every block with the balances after it, and which is the head.
struct Model {
  std::map<std::string, ModelBlock> blocks;
  std::string head;

  std::vector<std::string> Canonical() const {
    std::vector<std::string> out;
    for (std::string at = head; !at.empty(); at = blocks.at(at).parent) out.push_back(at);
    return {out.rbegin(), out.rend()};
  }
};

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  // A block on `parent` (null: the genesis), and what it does to the model.
  leat::chain::v1::BlockObserved Make(const ModelBlock* parent, Model* model) {
    leat::chain::v1::BlockObserved block;
    ModelBlock made;
    made.number = parent == nullptr ? 0 : parent->number + 1;
    made.parent = parent == nullptr ? "" : parent->hash;
    made.hash = leat::core::Sha256("block" + std::to_string(next_++)).View();
    const uint64_t difficulty = 1 + Below(3);
    made.total_difficulty = (parent == nullptr ? 0 : parent->total_difficulty) + difficulty;
    if (parent != nullptr) made.after = parent->after;
    block.set_chain(kChain);
    block.set_part(1);
    block.set_parts(1);
    auto* header = block.mutable_header();
    header->set_number(made.number);
    header->set_hash(made.hash);
    header->set_parent_hash(parent == nullptr ? std::string(32, '\0') : parent->hash);
    header->set_timestamp_s(1000 + made.number * 10);
    header->set_difficulty(Amount(difficulty).Magnitude());
    header->set_total_difficulty(Amount(made.total_difficulty).Magnitude());
    const std::string miner = AccountAt(static_cast<int>(Below(kAccounts)));
    header->set_miner(miner);
    const uint64_t base_fee = Below(3);
    header->set_base_fee_per_gas(Amount(base_fee).Magnitude());
    auto* coverage = block.mutable_coverage();
    coverage->set_receipts(true);
    coverage->set_traces(true);
    coverage->set_statuses(true);
    coverage->set_rewards(true);
    coverage->set_base_fee(true);
    if (parent == nullptr) {
      for (int i = 0; i < kAccounts; ++i) {
        auto* grant = block.add_system_transfers();
        grant->set_kind(leat::chain::v1::SYSTEM_TRANSFER_GENESIS);
        grant->set_to(AccountAt(i));
        grant->set_value(Amount(1'000'000'000).Magnitude());
        Add(&made.after, AccountAt(i), Amount(1'000'000'000));
      }
    }
    for (uint64_t i = parent == nullptr ? 0 : Below(4); i > 0; --i) {
      AddTransaction(miner, base_fee, block.add_transactions(), &made.after);
    }
    coverage->set_transaction_count(static_cast<uint32_t>(block.transactions_size()));
    if (parent != nullptr && Below(4) > 0) {
      auto* reward = block.add_system_transfers();
      reward->set_kind(leat::chain::v1::SYSTEM_TRANSFER_BLOCK_REWARD);
      reward->set_to(miner);
      reward->set_value(Amount(5000).Magnitude());
      Add(&made.after, miner, Amount(5000));
    }
    if (Below(5) == 0) {
      auto* withdrawal = block.add_withdrawals();
      withdrawal->set_address(AccountAt(0));
      withdrawal->set_amount_gwei(3);
      Add(&made.after, AccountAt(0), Amount(3'000'000'000));
    }
    // Fork choice: highest total difficulty, and the first seen of equals.
    if (model->head.empty() ||
        made.total_difficulty > model->blocks.at(model->head).total_difficulty) {
      model->head = made.hash;
    }
    model->blocks[made.hash] = std::move(made);
    return block;
  }

 private:
  void AddTransaction(const std::string& miner, uint64_t base_fee,
                      leat::chain::v1::Transaction* transaction, Balances* after) {
    const std::string from = AccountAt(static_cast<int>(Below(kAccounts)));
    const std::string to = AccountAt(static_cast<int>(Below(kAccounts)));
    const uint64_t gas = 100 + Below(100);
    const uint64_t price = base_fee + Below(5);
    const Amount value(Below(2000));
    const bool failed = Below(5) == 0;
    transaction->set_hash(std::string(leat::core::Sha256("tx" + std::to_string(next_++)).View()));
    transaction->set_from(from);
    transaction->set_to(to);
    transaction->set_value(value.Magnitude());
    transaction->set_gas_used(gas);
    transaction->set_effective_gas_price(Amount(price).Magnitude());
    transaction->set_outcome(failed ? leat::chain::v1::OUTCOME_FAILURE
                                    : leat::chain::v1::OUTCOME_SUCCESS);
    transaction->set_traced(true);
    Add(after, from, Amount(gas * price).Negated());
    Add(after, miner, Amount(gas * (price - base_fee)));
    const auto frame = [&](std::vector<uint32_t> address, const std::string& a,
                           const std::string& b, const Amount& amount, bool frame_failed) {
      auto* made = transaction->add_frames();
      for (const uint32_t part : address) made->add_trace_address(part);
      made->set_from(a);
      made->set_to(b);
      made->set_value(amount.Magnitude());
      made->set_failed(frame_failed);
    };
    frame({}, from, to, value, failed);
    if (!failed) {
      Add(after, from, value.Negated());
      Add(after, to, value);
    }
    // A call that may fail, and one below it that has no error of its own.
    if (Below(2) == 0) {
      const bool inner_failed = Below(2) == 0;
      const std::string third = AccountAt(static_cast<int>(Below(kAccounts)));
      const Amount first(Below(50)), second(Below(50));
      frame({0}, to, third, first, inner_failed);
      frame({0, 1}, third, from, second, false);
      if (!failed && !inner_failed) {
        Add(after, to, first.Negated());
        Add(after, third, first);
        Add(after, third, second.Negated());
        Add(after, from, second);
      }
    }
  }

  std::mt19937_64 random_;
  uint64_t next_ = 0;
};

Balances AllBalances(const leat::balances::Queries& queries, const leat::balances::Moment& moment) {
  Balances out;
  const auto status = queries.ForEachBalance(
      moment, [&](const Address& address, const Amount& amount) {
        if (!amount.IsZero()) out[std::string(address.View())] = amount;
        return true;
      });
  REQUIRE(status);
  return out;
}

class Run {
 public:
  explicit Run(uint64_t seed)
      : generator_(seed),
        folder_(std::filesystem::temp_directory_path().string() + "/leat_chain_model." +
                std::to_string(getpid())) {
    std::filesystem::remove_all(folder_);
    Open();
    Submit(nullptr);
  }
  ~Run() {
    node_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Step() {
    switch (generator_.Below(10)) {
      case 0:
        node_.reset();
        Open();
        break;
      case 1:
        CHECK(node_->balances()->Rebuild(true, nullptr)->identical);
        break;
      case 2:
        REQUIRE(node_->ledger()->Rebuild(nullptr));
        break;
      case 4: {
        // A branch from far below the head, as long as it takes to win.
        const auto canonical = model_.Canonical();
        const size_t depth = 6 + generator_.Below(4);
        if (canonical.size() <= depth) break;
        std::string tip = canonical[canonical.size() - 1 - depth];
        for (int i = 0; i < kBranchBlocksMax && model_.head != tip; ++i) {
          const ModelBlock* parent = &model_.blocks.at(tip);
          tip = Submit(parent);
        }
        CHECK(model_.head == tip);
        break;
      }
      case 3:
        node_.reset();
        std::filesystem::remove_all(folder_ + "/shards/ledger-0");
        Open();
        REQUIRE(node_->CatchUp(nullptr));
        break;
      default: {
        // On the head mostly, and on a block some way below it, canonical or not.
        const ModelBlock* parent = &model_.blocks.at(model_.head);
        if (generator_.Below(2) == 0) {
          const uint64_t depth = generator_.Below(kForkDepthMax);
          auto at = model_.blocks.begin();
          std::advance(at, generator_.Below(model_.blocks.size()));
          if (at->second.number + depth >= parent->number) parent = &at->second;
        }
        Submit(parent);
      }
    }
    CheckNow();
  }

  uint64_t deepest() const { return deepest_; }

  // Every height as it is known now, and as it was known at every moment that was noted.
  void CheckEverything() {
    const auto view = node_->balances()->view();
    const leat::balances::Queries queries(*view);
    for (const auto& [below, canonical] : noted_) {
      leat::balances::Selector selector;
      selector.known_below = below;
      const auto moment = queries.Resolve(kChain, selector);
      REQUIRE(moment);
      CHECK(AllBalances(queries, *moment) == model_.blocks.at(canonical.back()).after);
      CHECK(moment->block->closed.block_hash() == canonical.back());
      for (uint64_t number = 0; number < canonical.size(); ++number) {
        selector.at_block = number;
        const auto past = queries.Resolve(kChain, selector);
        REQUIRE(past);
        CHECK(past->block->closed.block_hash() == canonical[number]);
        CHECK(AllBalances(queries, *past) == model_.blocks.at(canonical[number]).after);
      }
      selector.at_block = canonical.size();
      CHECK(!queries.Resolve(kChain, selector));
    }
    CheckEveryPosition(queries);
    CheckHashes(queries);
  }

 private:
  void Open() {
    leat::apps::NodeOptions options;
    options.data = folder_;
    auto node = leat::apps::Node::Open(options);
    if (!node) FAIL(node.error().Text());
    node_ = std::move(*node);
  }

  // The hash of the block that was made.
  std::string Submit(const ModelBlock* parent) {
    const auto block = generator_.Make(parent, &model_);
    const auto report = node_->feed()->Submit({block});
    REQUIRE(report);
    deepest_ = std::max(deepest_, report->reverted);
    CHECK(node_->feed()->Submit({block})->known == 1);
    REQUIRE(node_->CatchUp(nullptr));
    const uint64_t below = node_->balances()->view()->input.next;
    noted_[below] = model_.Canonical();
    return block.header().hash();
  }

  void CheckNow() {
    REQUIRE(node_->CatchUp(nullptr));
    const auto view = node_->balances()->view();
    const leat::balances::Queries queries(*view);
    const auto moment = queries.Resolve(kChain, {});
    REQUIRE(moment);
    CHECK(moment->block->closed.block_hash() == model_.head);
    CHECK(moment->block->closed.completeness() == leat::ledger::v1::COMPLETENESS_EXACT);
    CHECK(AllBalances(queries, *moment) == model_.blocks.at(model_.head).after);
  }

  // A plain fold over the ledger's topic: the projection agrees after every event, and every posting sums to zero.
  void CheckEveryPosition(const leat::balances::Queries& queries) {
    auto subscription = node_->transport().Subscribe("ledger.entries", 0, 0);
    REQUIRE(subscription);
    const uint64_t end = node_->ledger()->decided();
    Balances fold;
    leat::bus::MessageBatch batch;
    for (uint64_t next = 0; next < end;) {
      REQUIRE((*subscription)->Poll({}, &batch));
      for (const auto& message : batch.messages) {
        CHECK(message.offset == next);
        ++next;
        if (message.event.type == leat::events::kEntriesPosted) {
          leat::ledger::v1::EntriesPosted posting;
          REQUIRE(posting.ParseFromString(std::string(message.event.data)));
          Amount sum;
          for (const auto& leg : posting.legs()) {
            const Amount amount = *Amount::FromBytes(leg.magnitude(), leg.negative());
            sum += amount;
            if (leg.account_class() == leat::ledger::v1::ACCOUNT_CLASS_MIRRORED) {
              Add(&fold, leg.address(), amount);
            }
          }
          CHECK(sum.IsZero());
        }
        leat::balances::Selector selector;
        selector.known_below = next;
        const auto moment = queries.Resolve(kChain, selector);
        REQUIRE(moment);
        CHECK(AllBalances(queries, *moment) == fold);
      }
    }
  }

  // A hash answers on the canonical chain, is a conflict off it, and unknown when it never was on it.
  void CheckHashes(const leat::balances::Queries& queries) {
    const auto canonical = model_.Canonical();
    std::map<std::string, bool> was_head;
    for (const auto& [below, chain] : noted_) {
      for (const auto& hash : chain) was_head[hash] = true;
    }
    for (const auto& [hash, block] : model_.blocks) {
      leat::balances::Selector selector;
      selector.at_block_hash = Hash::From(hash);
      const auto moment = queries.Resolve(kChain, selector);
      const bool is_canonical =
          block.number < canonical.size() && canonical[block.number] == hash;
      CHECK(moment.has_value() == is_canonical);
      if (moment) {
        CHECK(AllBalances(queries, *moment) == block.after);
      } else if (block.number <= model_.blocks.at(model_.head).number) {
        CHECK(moment.error().error_class == (was_head[hash] ? leat::ErrorClass::kConflict
                                                            : leat::ErrorClass::kNotFound));
      }
    }
  }

  Generator generator_;
  const std::string folder_;
  std::unique_ptr<leat::apps::Node> node_;
  Model model_;
  uint64_t deepest_ = 0;  // reorganisation, in blocks
  std::map<uint64_t, std::vector<std::string>> noted_;  // ledger position -> canonical chain then
};

}  // namespace

TEST_CASE("random chains answer as the model does at every height and position") {
  const char* given = std::getenv("LEAT_SEED");
  const uint64_t first = given != nullptr ? std::strtoull(given, nullptr, 10) : 20261121;
#ifdef __SANITIZE_THREAD__
  constexpr int kRuns = 1, kRunsInFull = 4;  // several times as slow
#else
  constexpr int kRuns = 2, kRunsInFull = 16;
#endif
  const int runs = given != nullptr ? 1 : leat::test::Full() ? kRunsInFull : kRuns;
  for (int i = 0; i < runs; ++i) {
    const uint64_t seed = first + static_cast<uint64_t>(i);
    MESSAGE("seed ", seed);
    Run run(seed);
    for (int step = 0; step < kStepsPerRun; ++step) run.Step();
    run.CheckEverything();
    MESSAGE("deepest reorganisation: ", run.deepest(), " blocks");
    CHECK(run.deepest() > 5);
  }
}

TEST_CASE("a block above 1 MiB travels in parts and is applied as one") {
  const std::string folder = std::filesystem::temp_directory_path().string() +
                             "/leat_block_parts." + std::to_string(getpid());
  std::filesystem::remove_all(folder);
  {
    leat::apps::NodeOptions options;
    options.data = folder;
    auto node = std::move(*leat::apps::Node::Open(options));
    Generator generator(1);
    Model model;
    REQUIRE(node->feed()->Submit({generator.Make(nullptr, &model)}));
    const std::string genesis = model.head;
    auto block = generator.Make(&model.blocks.at(genesis), &model);
    const std::string large = block.header().hash();
    Balances expected = model.blocks.at(large).after;
    while (block.ByteSizeLong() < 3 * leat::ingest::kPartBytesMax) {
      auto* transaction = block.add_transactions();
      transaction->set_hash(std::string(
          leat::core::Sha256("large" + std::to_string(block.transactions_size())).View()));
      transaction->set_from(AccountAt(0));
      transaction->set_to(AccountAt(1));
      transaction->set_value(Amount(1).Magnitude());
      transaction->set_gas_used(0);
      transaction->set_effective_gas_price("");
      transaction->set_outcome(leat::chain::v1::OUTCOME_SUCCESS);
      Add(&expected, AccountAt(0), Amount(1).Negated());
      Add(&expected, AccountAt(1), Amount(1));
    }
    REQUIRE(node->feed()->Submit({block}));
    REQUIRE(node->CatchUp(nullptr));
    CHECK(node->transport().End("chain.blocks", 0)->offset >= 1 + 3);
    const auto now = [&] {
      const auto view = node->balances()->view();
      const leat::balances::Queries queries(*view);
      return AllBalances(queries, *queries.Resolve(kChain, {}));
    };
    CHECK(now() == expected);
    CHECK(node->balances()->view()->input.next == node->ledger()->decided());
    // It falls off the chain as a whole, and comes back from where it was kept.
    std::string tip = genesis;
    while (model.head != tip || tip == genesis) {
      const auto next = generator.Make(&model.blocks.at(tip), &model);
      tip = next.header().hash();
      REQUIRE(node->feed()->Submit({next}));
    }
    REQUIRE(node->CatchUp(nullptr));
    CHECK(now() == model.blocks.at(model.head).after);
    model.blocks.at(large).after = expected;
    tip = large;
    while (model.head != tip) {
      const auto next = generator.Make(&model.blocks.at(tip), &model);
      tip = next.header().hash();
      REQUIRE(node->feed()->Submit({next}));
    }
    REQUIRE(node->CatchUp(nullptr));
    CHECK(now() == model.blocks.at(model.head).after);
  }
  std::filesystem::remove_all(folder);
}
