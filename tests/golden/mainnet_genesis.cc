// Blocks 0..8191 of Ethereum from the bundled sample: the balances give the state root of the block's header, and equal
// the published ones in every account, at several heights of ONE store; after a rebuild, after the ledger's shard was
// deleted and decided anew, and, where logs are relayed, after it was deleted and rebuilt from its topic.
//
//   mainnet_genesis --sample DIR                    the header's state roots
//   mainnet_genesis --sample DIR --published DIR    the published balances, too; exits with 77 where they are not
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "apps/node.h"
#include "chain/v1/chain.pb.h"
#include "consumers/balances/queries.h"
#include "core/hash.h"
#include "core/log.h"
#include "events/registry.h"
#include "producers/ingest/block_reader.h"

namespace {

using leat::Address;
using leat::Amount;
using leat::Hash;

constexpr const char* kChain = "eip155:1";
constexpr uint64_t kStateRootStep = 1024;
constexpr uint64_t kHead = 8191;
constexpr int kSkipped = 77;

int failures = 0;
int checks = 0;

void Check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("WRONG %s\n", what.c_str());
}

template <typename T>
T Must(leat::Result<T> result, const std::string& what) {
  if (result) return std::move(*result);
  std::printf("WRONG %s: %s\n", what.c_str(), result.error().Text().c_str());
  std::exit(1);
}
void Must(const leat::Status& status, const std::string& what) {
  if (status) return;
  std::printf("WRONG %s: %s\n", what.c_str(), status.error().Text().c_str());
  std::exit(1);
}

void Ingest(leat::apps::Node* node, const std::string& sample, const std::string& scratch) {
  leat::ingest::ReadOptions options;
  options.paths = {sample};
  options.chain = kChain;
  options.scratch_dir = scratch;
  const auto reader = Must(leat::ingest::BlockReader::Open(options), "read the sample");
  std::vector<leat::chain::v1::BlockObserved> blocks;
  for (;;) {
    leat::chain::v1::BlockObserved block;
    if (!Must(reader->Next(&block), "next block")) break;
    blocks.push_back(std::move(block));
  }
  Must(node->feed()->Submit(blocks), "submit");
  Must(node->CatchUp(nullptr), "catch up");
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// Every height's balances against the header's state root; some against the published file, zero balances too.
void CheckBalances(leat::apps::Node* node, const std::string& published, const std::string& when) {
  const auto view = node->balances()->view();
  const leat::balances::Queries queries(*view);
  const auto at = [&](uint64_t number) {
    leat::balances::Selector selector;
    selector.at_block = number;
    return Must(queries.Resolve(kChain, selector), when);
  };
  const auto state = [&](const leat::balances::Moment& moment) {
    std::vector<std::pair<Address, Amount>> out;
    Must(queries.ForEachBalance(moment, [&](const Address& address, const Amount& amount) {
      out.emplace_back(address, amount);
      return true;
    }), when);
    return out;
  };
  for (uint64_t step = 0; step <= kHead + 1; step += kStateRootStep) {
    const uint64_t number = std::min(step, kHead);
    const auto moment = at(number);
    const Hash root = leat::balances::PlainStateRoot(state(moment));
    Check(root.View() == moment.block->closed.state_root(),
          when + ": state root at " + std::to_string(number));
  }
  if (published.empty()) return;
  for (const uint64_t number : {0, 1000, 8191}) {
    std::string csv = "address,balance_wei\n";
    for (const auto& [address, amount] : state(at(number))) {
      csv += address.Hex() + "," + amount.ToDecimal() + "\n";
    }
    Check(csv == ReadFile(published + "/balances_at_" + std::to_string(number) + ".csv"),
          when + ": published balances at " + std::to_string(number));
  }
}

// Over (type, subject, payload) of a topic, in order.
Hash DigestOf(leat::apps::Node* node, const std::string& topic) {
  const auto end = Must(node->transport().End(topic, 0), topic);
  const auto subscription = Must(node->transport().Subscribe(topic, 0, 0), topic);
  leat::bus::MessageBatch batch;
  Hash digest;
  for (uint64_t next = 0; next < end.offset;) {
    Must(subscription->Poll({}, &batch), topic);
    for (const auto& message : batch.messages) {
      next = message.offset + 1;
      if (message.event.type == leat::events::kShardClaimed) continue;  // one at every start
      const std::string head = std::string(message.event.type) + '\0' +
                               std::string(message.event.subject) + '\0';
      digest = leat::core::Sha256(digest.View(), head, message.event.data);
    }
  }
  return digest;
}

void Run(bool mount_logs, const std::string& sample, const std::string& published,
         const std::string& base) {
  const std::string mode = mount_logs ? "mounted" : "relayed";
  leat::apps::NodeOptions options;
  options.data = base + "/" + mode;
  options.mount_logs = mount_logs;
  const auto open = [&] { return Must(leat::apps::Node::Open(options), mode + ": open"); };
  const std::string ledger = options.data + "/shards/ledger-0";

  auto node = open();
  Ingest(node.get(), sample, base + "/scratch");
  CheckBalances(node.get(), published, mode + ", ingested");
  const Hash chain_digest = DigestOf(node.get(), "chain.blocks");
  const Hash digest = DigestOf(node.get(), "ledger.entries");
  const uint64_t in_log = node->ledger()->shard()->log()->size();

  const auto report = Must(node->balances()->Rebuild(true, nullptr), mode + ": rebuild");
  Check(report.identical && report.rows > 20'000, mode + ": rebuilt rows are the same");
  CheckBalances(node.get(), published, mode + ", balances rebuilt");
  Must(node->ledger()->Rebuild(nullptr), mode + ": rebuild the ledger's rows");
  node.reset();

  std::filesystem::remove_all(ledger);
  node = open();
  if (!mount_logs) {
    Check(node->ledger()->shard()->log()->size() == in_log,
          mode + ": the deleted shard has its whole log again when it opens");
  }
  Must(node->CatchUp(nullptr), mode + ": catch up");
  CheckBalances(node.get(), published, mode + ", ledger's shard deleted");
  Check(DigestOf(node.get(), "chain.blocks") == chain_digest, mode + ": chain.blocks is the same");
  Check(DigestOf(node.get(), "ledger.entries") == digest, mode + ": ledger.entries is the same");

  // Ingested again: nothing is new.
  const uint64_t decided = node->ledger()->decided();
  Ingest(node.get(), sample, base + "/scratch");
  Check(node->ledger()->decided() == decided, mode + ": nothing is decided twice");
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  std::string sample, published;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--sample") sample = argv[i + 1];
    if (std::string(argv[i]) == "--published") published = argv[i + 1];
  }
  if (!published.empty() && !std::filesystem::exists(published + "/balances_at_0.csv")) {
    std::printf("SKIPPED: %s is not there\n", published.c_str());
    return kSkipped;
  }
  const std::string base = std::filesystem::temp_directory_path().string() +
                           "/leat_mainnet_genesis." + std::to_string(getpid());
  std::filesystem::create_directories(base);
  Run(true, sample, published, base);
  Run(false, sample, published, base);
  std::filesystem::remove_all(base);
  std::printf("%d checks, %d wrong\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}
