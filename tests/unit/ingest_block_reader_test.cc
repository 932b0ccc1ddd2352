#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "chain/v1/chain.pb.h"
#include "core/amount.h"
#include "core/hash.h"
#include "producers/ingest/block_reader.h"

namespace leat::ingest {
namespace {

namespace pb = chain::v1;
using Files = std::vector<std::pair<std::string, std::string>>;

class TempFolder {
 public:
  TempFolder() {
    char name[] = "/tmp/leat-block-reader-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A hash and an address that are easy to tell: 0x00…0n.
std::string H(unsigned n) {
  char text[67];
  std::snprintf(text, sizeof text, "0x%064x", n);
  return text;
}
std::string A(unsigned n) {
  char text[43];
  std::snprintf(text, sizeof text, "0x%040x", n);
  return text;
}
std::string Hex(const std::string& bytes) { return core::ToHex(bytes); }
std::string Decimal(const std::string& magnitude) {
  return core::Amount::FromBytes(magnitude)->ToDecimal();
}

struct Outcome {
  std::vector<pb::BlockObserved> blocks;
  ReadSummary summary;
  std::string error;  // of Open; "" when it went well
};

// Files are read in the order given; their folder's name in errors is cut.
Outcome Read(const Files& files, ReadOptions options = {}) {
  const TempFolder folder;
  for (const auto& [name, bytes] : files) {
    std::ofstream(folder.File(name), std::ios::binary) << bytes;
    options.paths.push_back(folder.File(name));
  }
  if (options.chain.empty()) options.chain = "eip155:1";
  options.scratch_dir = folder.File("scratch");
  Outcome outcome;
  {
    auto reader = BlockReader::Open(options);
    if (!reader) {
      outcome.error = reader.error().Text();
      for (size_t at; (at = outcome.error.find(folder.File(""))) != std::string::npos;) {
        outcome.error.erase(at, folder.File("").size());
      }
      return outcome;
    }
    outcome.summary = (*reader)->summary();
    for (;;) {
      const auto more = (*reader)->Next(&outcome.blocks.emplace_back());
      REQUIRE(more);
      if (!*more) break;
    }
    outcome.blocks.pop_back();
    CHECK(*(*reader)->Next(&outcome.blocks.emplace_back()) == false);  // and stays at the end
    outcome.blocks.pop_back();
  }
  CHECK(std::filesystem::is_empty(options.scratch_dir));
  return outcome;
}

Outcome ReadExcerpt(const Files& files, const std::string& chain = "eip155:1") {
  ReadOptions options;
  options.excerpt = true;
  options.chain = chain;
  return Read(files, options);
}

bool Contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE("in: ", text, "\nnot: ", part);
  return found;
}

const std::string kBlocks = "number,hash,parent_hash,miner,timestamp,difficulty\n";
std::string Block(unsigned number, unsigned hash, unsigned parent) {
  return std::to_string(number) + "," + H(hash) + "," + H(parent) + "," + A(0xaa) + "," +
         std::to_string(1000 + number) + ",1\n";
}
const std::string kTransactions = "hash,block_hash,block_number,from_address,to_address,value\n";
std::string Transfer(unsigned hash, const std::string& block_hash, unsigned number,
                     unsigned value = 1) {
  return H(hash) + "," + block_hash + "," + std::to_string(number) + "," + A(1) + "," + A(2) + "," +
         std::to_string(value) + "\n";
}

std::vector<std::string> Order(const Outcome& outcome) {
  std::vector<std::string> order;
  for (const auto& block : outcome.blocks) {
    const std::string hash = Hex(block.header().hash());
    order.push_back(std::to_string(block.header().number()) + ":" +
                    hash.substr(hash.find_last_of('0') + 1));
  }
  return order;
}

TEST_CASE("ingest blocks: all the fields of a whole block") {
  const Files files = {
      {"blocks.csv",
       "number,hash,parent_hash,miner,timestamp,difficulty,total_difficulty,gas_limit,gas_used,"
       "base_fee_per_gas,transaction_count,state_root,blob_gas_used,excess_blob_gas,withdrawals\n"
       "20," +
           H(0x20) + "," + H(0x1f) + "," + A(0xaa) + ",77,0," +
           "115792089237316195423570985008687907853269984665640564039457584007913129639935," +
           "30,20,10,2," + H(0x5) +
           ",131072,3338477,\"[{\"\"index\"\": 6, \"\"validator_index\"\": "
           "7, \"\"address\"\": \"\"" +
           A(8) + "\"\", \"\"amount\"\": \"\"9\"\"}]\"\n"},
      {"transactions.csv",
       "hash,nonce,block_hash,block_number,transaction_index,from_address,to_address,value,gas,"
       "gas_price,input,max_fee_per_gas,max_priority_fee_per_gas,transaction_type,blob_count,"
       "blob_versioned_hashes\n" +
           H(0xb) + ",4," + H(0x20) + ",20,1," + A(1) + ",,5,6,100,0xA9059cbb01,,,0,,\n" + H(0xc) +
           ",0," + H(0x20) + ",20,0," + A(1) + "," + A(2) + ",0,6,99,0x,50,3,3,," + H(1) + ";" +
           H(2) + "\n"},
      {"receipts.csv", "transaction_hash,gas_used,block_number,status,contract_address\n" + H(0xb) +
                           ",21,20,1," + A(3) + "\n" + H(0xc) + ",22,20,0,\n"},
      {"traces.csv",
       "block_number,transaction_hash,from_address,to_address,value,trace_type,call_type,"
       "reward_type,trace_address,error,status\n"
       "20," +
           H(0xb) + "," + A(3) + "," + A(5) +
           ",7,suicide,,,10,,1\n"
           "20," +
           H(0xb) + "," + A(1) + "," + A(3) +
           ",5,create,,,,,1\n"
           "20," +
           H(0xb) + "," + A(3) + "," + A(4) +
           ",0,call,staticcall,,1,,1\n"
           "20," +
           H(0xb) + "," + A(3) + "," + A(4) +
           ",,call,delegatecall,,\"2,0\",Reverted,0\n"
           "20," +
           H(0xb) + "," + A(3) + "," + A(4) +
           ",6,call,callcode,,2,,\n"
           "20,,," +
           A(0xaa) +
           ",3,reward,,block,,,\n"
           "20,,," +
           A(0xab) +
           ",2,reward,,uncle,,,\n"
           "20,,," +
           A(0xac) +
           ",1,reward,,external,,,\n"
           "20,," +
           A(1) + "," + A(2) +
           ",9,daofork,,,,,\n"
           "20," +
           H(0xc) + "," + A(1) + "," + A(2) + ",0,call,call,,,,0\n"},
      {"withdrawals.csv", "block_number,index,validator_index,address,amount_gwei\n20,5,1," + A(9) +
                              ",11\n20,6,7," + A(8) + ",9\n"}};
  const Outcome outcome = Read(files);
  REQUIRE(outcome.error == "");
  REQUIRE(outcome.blocks.size() == 1);
  const pb::BlockObserved& block = outcome.blocks[0];
  CHECK(block.chain() == "eip155:1");
  CHECK(block.part() == 1);
  CHECK(block.parts() == 1);

  const pb::Header& header = block.header();
  CHECK(header.number() == 20);
  CHECK(Hex(header.hash()) == H(0x20));
  CHECK(Hex(header.parent_hash()) == H(0x1f));
  CHECK(Hex(header.miner()) == A(0xaa));
  CHECK(header.timestamp_s() == 77);
  CHECK(header.difficulty().empty());
  CHECK(Hex(header.total_difficulty()) == "0x" + std::string(64, 'f'));
  CHECK(header.gas_limit() == 30);
  CHECK(header.gas_used() == 20);
  CHECK(Decimal(header.base_fee_per_gas()) == "10");
  CHECK(Hex(header.state_root()) == H(0x5));
  CHECK(header.blob_gas_used() == 131072);
  CHECK(header.excess_blob_gas() == 3338477);
  CHECK(!header.synthetic());

  REQUIRE(block.transactions_size() == 2);
  const pb::Transaction& blob = block.transactions(0);
  CHECK(Hex(blob.hash()) == H(0xc));
  CHECK(blob.index() == 0);
  CHECK(Hex(blob.to()) == A(2));
  CHECK(blob.value().empty());
  CHECK(blob.type() == 3);
  CHECK(blob.gas_used() == 22);
  CHECK(Decimal(blob.effective_gas_price()) == "13");  // min(50, 10 + 3)
  CHECK(blob.outcome() == pb::OUTCOME_FAILURE);
  CHECK(blob.blob_gas_used() == 2 * 131072);
  CHECK(Decimal(blob.blob_gas_price()) == "2");  // e, in whole wei
  CHECK(blob.input_length() == 0);
  CHECK(blob.input_hash().empty());
  REQUIRE(blob.frames_size() == 1);  // no value, but it failed
  CHECK(blob.frames(0).failed());

  const pb::Transaction& creation = block.transactions(1);
  CHECK(Hex(creation.hash()) == H(0xb));
  CHECK(creation.index() == 1);
  CHECK(Hex(creation.from()) == A(1));
  CHECK(creation.to().empty());
  CHECK(Hex(creation.created()) == A(3));
  CHECK(Decimal(creation.value()) == "5");
  CHECK(creation.nonce() == 4);
  CHECK(creation.gas() == 6);
  CHECK(Decimal(creation.effective_gas_price()) == "100");
  CHECK(creation.outcome() == pb::OUTCOME_SUCCESS);
  CHECK(!creation.has_blob_gas_used());
  CHECK(!creation.has_blob_gas_price());
  CHECK(creation.input_length() == 5);
  CHECK(Hex(creation.input_selector()) == "0xa9059cbb");
  CHECK(creation.input_hash() == core::Keccak256("\xa9\x05\x9c\xbb\x01").View());
  CHECK(creation.traced());
  std::string frames;
  for (const pb::Frame& frame : creation.frames()) {
    frames += pb::FrameKind_Name(frame.kind()) + "[";
    for (const uint32_t step : frame.trace_address()) frames += std::to_string(step) + ",";
    frames += "]" + Decimal(frame.value()) + (frame.failed() ? "! " : " ");
  }
  CHECK(frames ==
        "FRAME_CREATE[]5 FRAME_CALLCODE[2,]6 FRAME_DELEGATECALL[2,0,]0! "
        "FRAME_SELFDESTRUCT[10,]7 ");

  std::string transfers;
  for (const pb::SystemTransfer& transfer : block.system_transfers()) {
    transfers += std::to_string(transfer.kind()) + ":" + Decimal(transfer.value()) +
                 (transfer.from().empty() ? " " : "f ");
  }
  CHECK(transfers == "1:3 2:2 4:1 3:9f ");
  REQUIRE(block.withdrawals_size() == 2);  // the one of the header is the second of the file
  CHECK(block.withdrawals(0).index() == 5);
  CHECK(block.withdrawals(0).amount_gwei() == 11);
  CHECK(block.withdrawals(1).validator_index() == 7);
  CHECK(Hex(block.withdrawals(1).address()) == A(8));

  CHECK(block.coverage().receipts());
  CHECK(block.coverage().traces());
  CHECK(block.coverage().statuses());
  CHECK(block.coverage().rewards());
  CHECK(block.coverage().base_fee());
  CHECK(outcome.summary.blocks == 1);
  CHECK(outcome.summary.transactions == 2);
  CHECK(outcome.summary.receipts == 2);
  CHECK(outcome.summary.traces == 10);
  CHECK(outcome.summary.withdrawals == 2);
  CHECK(outcome.summary.fork_blocks == 0);
}

TEST_CASE("ingest blocks: the streaming export, mixed in one file, and again in another") {
  const std::string lines =
      "{\"type\":\"transaction\",\"hash\":\"" + H(1) +
      "\",\"transaction_index\":0,\"block_number\":7,"
      "\"block_hash\":\"" +
      H(0x70) + "\",\"from_address\":\"" + A(1) + "\",\"to_address\":\"" + A(2) +
      "\",\"value\":340282366920938463463374607431768211456,\"gas_price\":5,"
      "\"max_fee_per_gas\":null,\"transaction_type\":2,\"receipt_gas_used\":21000,"
      "\"receipt_status\":1,\"receipt_contract_address\":null,"
      "\"receipt_effective_gas_price\":4,\"item_id\":\"x\"}\n"
      "{\"type\":\"log\",\"block_number\":7}\n"
      "{\"type\":\"trace\",\"block_number\":7,\"transaction_hash\":\"" +
      H(1) + "\",\"from_address\":\"" + A(1) + "\",\"to_address\":\"" + A(2) +
      "\",\"value\":340282366920938463463374607431768211456,\"trace_type\":\"call\","
      "\"call_type\":\"call\",\"trace_address\":[],\"error\":null,\"status\":1}\n"
      "{\"type\":\"trace\",\"block_number\":7,\"transaction_hash\":\"" +
      H(1) + "\",\"from_address\":\"" + A(2) + "\",\"to_address\":\"" + A(3) +
      "\",\"value\":1,\"trace_type\":\"call\",\"call_type\":\"call\",\"trace_address\":[0, 12]}\n"
      "{\"type\":\"block\",\"number\":7,\"hash\":\"" +
      H(0x70) + "\",\"parent_hash\":\"" + H(0x60) + "\",\"miner\":\"" + A(9) +
      "\",\"timestamp\":5,\"difficulty\":2,\"transaction_count\":1,"
      "\"withdrawals\":[{\"index\":1,\"validator_index\":2,\"address\":\"" +
      A(4) + "\",\"amount\":3}]}\n";
  const Outcome outcome =
      Read({{"export.json", lines},
            {"again.json", lines},
            {"receipts.csv", "transaction_hash,gas_used,block_number,cumulative_gas_used\n" + H(1) +
                                 ",21000,7,21000\n"}});
  REQUIRE(outcome.error == "");
  REQUIRE(outcome.blocks.size() == 1);
  const pb::BlockObserved& block = outcome.blocks[0];
  REQUIRE(block.transactions_size() == 1);
  const pb::Transaction& transaction = block.transactions(0);
  CHECK(Decimal(transaction.value()) == "340282366920938463463374607431768211456");
  CHECK(Decimal(transaction.effective_gas_price()) == "4");
  CHECK(transaction.gas_used() == 21000);
  CHECK(transaction.outcome() == pb::OUTCOME_SUCCESS);
  REQUIRE(transaction.frames_size() == 2);
  CHECK(transaction.frames(1).trace_address(1) == 12);
  CHECK(block.withdrawals_size() == 1);
  CHECK(!block.coverage().rewards());
  CHECK(outcome.summary.receipts == 1);
  CHECK(outcome.summary.traces == 2);
}

TEST_CASE("ingest blocks: rows in any order, with and without spilling") {
  constexpr unsigned kBlockCount = 300;
  std::vector<std::string> transactions;
  std::vector<std::string> receipts;
  std::vector<std::string> blocks;
  for (unsigned n = 0; n < kBlockCount; ++n) {
    blocks.push_back(Block(n, 0x1000 + n, 0xfff + n));
    for (unsigned i = 0; i < 5; ++i) {
      const unsigned hash = 0x100000 + n * 5 + i;
      transactions.push_back(std::to_string(i) + "," + Transfer(hash, H(0x1000 + n), n, hash));
      receipts.push_back(H(hash) + "," + std::to_string(21000 + i) + "," + std::to_string(n) +
                         ",1\n");
    }
  }
  const auto join = [](const std::string& head, const std::vector<std::string>& rows) {
    std::string out = head;
    for (const std::string& row : rows) out += row;
    return out;
  };
  const auto files = [&] {
    return Files{
        {"blocks.csv", join(kBlocks, blocks)},
        {"transactions.csv", join("transaction_index," + kTransactions, transactions)},
        {"receipts.csv", join("transaction_hash,gas_used,block_number,status\n", receipts)}};
  };
  const Outcome expected = Read(files());
  REQUIRE(expected.error == "");
  REQUIRE(expected.blocks.size() == kBlockCount);
  CHECK(expected.blocks[7].transactions(3).gas_used() == 21003);
  std::mt19937_64 random(11);
  for (const uint64_t memory_bytes : {1ull << 30, 30'000ull, 1'000ull}) {
    std::shuffle(blocks.begin(), blocks.end(), random);
    std::shuffle(transactions.begin(), transactions.end(), random);
    std::shuffle(receipts.begin(), receipts.end(), random);
    ReadOptions options;
    options.memory_bytes = memory_bytes;
    const Outcome outcome = Read(files(), options);
    REQUIRE(outcome.error == "");
    REQUIRE(outcome.blocks.size() == kBlockCount);
    for (unsigned n = 0; n < kBlockCount; ++n) {  // one branch: the order of numbers
      REQUIRE(outcome.blocks[n].SerializeAsString() == expected.blocks[n].SerializeAsString());
    }
    CHECK((outcome.summary.spilled_bytes > 0) == (memory_bytes < 1 << 30));
  }
}

TEST_CASE("ingest blocks: forks come as their headers appear, never before their parent") {
  // 0 - 1 - 2 - 3 and 1 - 22 - 33 - 44, by hash; 44 appears long before its parent.
  const Outcome outcome =
      Read({{"blocks_a.csv", kBlocks + Block(4, 0x44, 0x33) + Block(0, 0x9, 0x99) +
                                 Block(1, 0x1, 0x9) + Block(2, 0x2, 0x1) + Block(3, 0x3, 0x2)},
            {"blocks_b.csv", kBlocks + Block(3, 0x33, 0x22) + Block(2, 0x22, 0x1) +
                                 Block(2, 0x2, 0x1)}});  // the last is a repetition
  REQUIRE(outcome.error == "");
  CHECK(Order(outcome) ==
        std::vector<std::string>{"0:9", "1:1", "2:2", "3:3", "2:22", "3:33", "4:44"});
  CHECK(outcome.summary.fork_blocks == 2);
  CHECK(outcome.summary.blocks == 7);

  // Branches that appear height by height need no reordering.
  const Outcome even =
      Read({{"blocks.csv", kBlocks + Block(0, 0x9, 0x99) + Block(1, 0x1, 0x9) +
                               Block(1, 0x11, 0x9) + Block(2, 0x22, 0x11) + Block(2, 0x2, 0x1)}});
  CHECK(Order(even) == std::vector<std::string>{"0:9", "1:1", "1:11", "2:22", "2:2"});
}

TEST_CASE("ingest blocks: a transaction mined in two blocks of one height") {
  const std::string blocks =
      kBlocks + Block(0, 0x9, 0x99) + Block(1, 0x1, 0x9) + Block(1, 0x11, 0x9);
  const std::string transactions =
      kTransactions + Transfer(5, H(0x1), 1) + Transfer(5, H(0x11), 1) + Transfer(6, H(0x11), 1);
  const std::string receipts = "transaction_hash,block_hash,gas_used,block_number,status\n";
  const Outcome outcome =
      Read({{"blocks.csv", blocks},
            {"transactions.csv", transactions},
            {"receipts.csv", receipts + H(5) + "," + H(0x11) + ",1,1,0\n" + H(5) + "," + H(0x1) +
                                 ",2,1,1\n" + H(6) + ",,3,1,1\n"}});  // 6 is in one block only
  REQUIRE(outcome.error == "");
  REQUIRE(outcome.blocks.size() == 3);
  CHECK(outcome.blocks[1].transactions(0).gas_used() == 2);
  CHECK(outcome.blocks[2].transactions(0).gas_used() == 1);
  CHECK(outcome.blocks[2].transactions(0).outcome() == pb::OUTCOME_FAILURE);
  CHECK(outcome.blocks[2].transactions(1).gas_used() == 3);

  CHECK(Contains(Read({{"blocks.csv", blocks},
                       {"transactions.csv", transactions},
                       {"receipts.csv", receipts + H(5) + ",,1,1,0\n"}})
                     .error,
                 "receipts.csv:2: a receipt of transaction " + H(5) +
                     " has no block_hash, and may belong to any of the 2 blocks of number 1 (give "
                     "the rows of this kind a block_hash column)"));
  CHECK(Contains(
      Read({{"blocks.csv", blocks}, {"transactions.csv", kTransactions + Transfer(7, "", 1)}})
          .error,
      "transactions.csv:2: a transaction has no block_hash"));
}

TEST_CASE("ingest blocks: parents") {
  const std::string orphan =
      kBlocks + Block(5, 0x5, 0x4) + Block(6, 0x6, 0x5) + Block(6, 0x66, 0x55);
  CHECK(Read({{"blocks.csv", orphan}}).error ==
        "block 6 " + H(0x66) + " (blocks.csv:4): its parent " + H(0x55) +
            " is not in the input (add the file with the header of block 5, or use --excerpt for "
            "blocks with gaps)");
  CHECK(Contains(Read({{"blocks.csv", kBlocks + Block(5, 0x5, 0x4) + Block(7, 0x7, 0x6)}}).error,
                 "block 7 " + H(0x7) + " (blocks.csv:3): its parent " + H(0x6) + " is not in"));
  ReadOptions options;
  options.known_block = [](const Hash& hash) -> Result<bool> { return hash.Hex() == H(0x55); };
  CHECK(Read({{"blocks.csv", orphan}}, options).blocks.size() == 3);
  // A chain may begin anywhere, but once.
  const std::string twins = kBlocks + Block(5, 0x5, 0x4) + Block(5, 0x55, 0x44);
  CHECK(Contains(Read({{"blocks.csv", twins}}).error,
                 "block 5 " + H(0x5) + " (blocks.csv:2): its parent " + H(0x4) + " is not known"));
  options.known_block = [](const Hash& hash) -> Result<bool> { return hash.Hex() < H(0x50); };
  CHECK(Read({{"blocks.csv", twins}}, options).blocks.size() == 2);
  const std::string later = kBlocks + Block(60, 0x60, 0x59);
  CHECK(Read({{"blocks.csv", later}}, options).error == "");
  options.chain_begun = true;
  CHECK(Contains(Read({{"blocks.csv", later}}, options).error,
                 "block 60 " + H(0x60) + " (blocks.csv:2): its parent " + H(0x59) + " is not known"));
  CHECK(Read({{"blocks.csv", kBlocks + Block(0, 0x1, 0x99)}}, options).error == "");  // itself known
  // What cannot be asked is not unknown.
  options.known_block = [](const Hash&) -> Result<bool> {
    return Fail(ErrorClass::kUnavailable, "the server is gone");
  };
  CHECK(Read({{"blocks.csv", later}}, options).error == "the server is gone");
}

TEST_CASE("ingest blocks: forks need difficulties") {
  const std::string plain = "number,hash,parent_hash,miner,timestamp\n";
  const auto bare = [](unsigned number, unsigned hash, unsigned parent) {
    const std::string row = Block(number, hash, parent);
    return row.substr(0, row.rfind(',')) + "\n";
  };
  CHECK(Read({{"blocks.csv", plain + bare(1, 0x1, 0x9) + bare(2, 0x2, 0x1)}}).error == "");
  CHECK(Contains(
      Read({{"blocks.csv", plain + bare(1, 0x1, 0x9) + bare(2, 0x2, 0x1) + bare(2, 0x22, 0x1)}}).error,
      "blocks.csv:3: block 2 " + H(0x2) + " is one of 2 of its number, and has no difficulty"));
}

TEST_CASE("ingest blocks: numbers that nothing can pay or date") {
  const std::string block = kBlocks + Block(1, 0x1, 0x9);
  const std::string huge =
      "115792089237316195423570985008687907853269984665640564039457584007913129639935";
  const std::string receipts = "transaction_hash,gas_used,block_number,effective_gas_price\n";
  const auto error = [&](const std::string& receipt) {
    return Read({{"blocks.csv", block},
                 {"transactions.csv", kTransactions + Transfer(5, "", 1)},
                 {"receipts.csv", receipts + receipt}})
        .error;
  };
  CHECK(Contains(error(H(5) + ",21000,1," + huge + "\n"),
                 "receipts.csv:2: transaction " + H(5) +
                     ": gas times effective gas price exceeds 256 bits"));
  CHECK(error(H(5) + ",1,1," + huge + "\n") == "");
  CHECK(Contains(Read({{"blocks.csv", "number,hash,parent_hash,miner,timestamp\n1," + H(1) + "," +
                                          H(9) + "," + A(0xaa) + ",1420070400000000\n"}})
                     .error,
                 "field timestamp: 1420070400000000 lies after the year 9999"));
  CHECK(Contains(Read({{"blocks.csv", block},
                       {"transactions.csv", "input," + kTransactions + "0," + Transfer(5, "", 1)}})
                     .error,
                 "field input: is not hex"));
}

TEST_CASE("ingest blocks: what is missing is not covered") {
  const auto coverage = [](const std::string& columns, const std::string& values, unsigned number,
                           const std::string& chain, const Files& more = {}) {
    Files files = {{"blocks.csv", columns + kBlocks + values + Block(number, 0x1, 0x9)}};
    files.insert(files.end(), more.begin(), more.end());
    const auto outcome = ReadExcerpt(files, chain);
    REQUIRE(outcome.error == "");
    REQUIRE(outcome.blocks.size() == 1);
    return outcome.blocks[0].coverage();
  };
  CHECK(coverage("transaction_count,", "0,", 1, "eip155:1").traces());
  CHECK_FALSE(coverage("transaction_count,", "2,", 1, "eip155:1").traces());
  CHECK_FALSE(coverage("transaction_count,", "2,", 1, "eip155:1").receipts());
  CHECK_FALSE(coverage("gas_used,", "21000,", 1, "eip155:1").statuses());
  CHECK(coverage("gas_used,", "0,", 1, "eip155:1").statuses());

  constexpr unsigned kShanghai = 17'034'870;
  CHECK_FALSE(coverage("", "", kShanghai - 1, "eip155:1").withdrawals_missing());
  CHECK(coverage("", "", kShanghai, "eip155:1").withdrawals_missing());
  CHECK_FALSE(coverage("withdrawals,", "[],", kShanghai, "eip155:1").withdrawals_missing());
  CHECK_FALSE(coverage("", "", kShanghai, "eip155:1",
                 {{"withdrawals.csv", "block_number,index,validator_index,address,amount\n" +
                                          std::to_string(kShanghai) + ",1,2," + A(3) + ",4\n"}})
            .withdrawals_missing());
  CHECK_FALSE(coverage("", "", 1, "eip155:5").withdrawals_missing());
  CHECK(coverage("withdrawals_root,", H(0x77) + ",", 1, "eip155:5").withdrawals_missing());
}

TEST_CASE("ingest blocks: what a segment must hold") {
  const std::string block = kBlocks + Block(1, 0x1, 0x9);
  CHECK(Contains(
      Read({{"blocks.csv", block}, {"transactions.csv", kTransactions + Transfer(5, "", 2)}}).error,
      "transactions.csv:2: a transaction of block 2, which has no header in the input"));
  CHECK(Contains(
      Read({{"blocks.csv", block}, {"transactions.csv", kTransactions + Transfer(5, H(0x2), 1)}})
          .error,
      "transactions.csv:2: a transaction of block 1 " + H(0x2) +
          ", which has no header in the input"));
  const std::string counted = "transaction_count," + kBlocks + "2," + Block(1, 0x1, 0x9);
  CHECK(Read({{"blocks.csv", counted}, {"transactions.csv", kTransactions + Transfer(5, "", 1)}})
            .error == "blocks.csv:2: block 1 " + H(0x1) +
                          ": transaction_count is 2, but the input has 1 transactions of it (give "
                          "all transactions of the block)");
  CHECK(Contains(Read({{"blocks.csv", counted}}).error,
                 "transaction_count is 2, but the input has 0 transactions of it (give the "
                 "transactions file, or traces of all of them, or use --excerpt)"));
  CHECK(ReadExcerpt({{"blocks.csv", counted}}).blocks.size() == 1);
  const std::string receipts = "transaction_hash,gas_used,block_number\n" + H(6) + ",1,1\n";
  CHECK(Contains(Read({{"blocks.csv", block},
                       {"transactions.csv", kTransactions + Transfer(5, "", 1)},
                       {"receipts.csv", receipts}})
                     .error,
                 "receipts.csv:2: a receipt of transaction " + H(6) + ", which is not in block 1"));
  CHECK(Contains(Read({{"blocks.csv", block}, {"receipts.csv", receipts}}).error,
                 "receipts.csv:2: transaction " + H(6) +
                     " of block 1 has neither a transaction row nor a root trace"));
}

TEST_CASE("ingest blocks: repeated rows are taken once, contradictions are not taken") {
  const std::string block = kBlocks + Block(1, 0x1, 0x9);
  const auto error = [&](const std::string& name, const std::string& bytes) {
    return Read({{"blocks.csv", block},
                 {"transactions.csv", kTransactions + Transfer(5, "", 1)},
                 {name, bytes}})
        .error;
  };
  CHECK(error("blocks_2.csv", block) == "");
  CHECK(Contains(error("blocks_2.csv", kBlocks + Block(1, 0x1, 0x8)),
                 "blocks_2.csv:2: the header of block 1 " + H(0x1) +
                     " says something else than at blocks.csv:2 (identical rows are taken once"));
  CHECK(error("transactions_2.csv", kTransactions + Transfer(5, H(1), 1)) == "");
  CHECK(Contains(error("transactions_2.csv", kTransactions + Transfer(5, "", 1, 2)),
                 "transactions_2.csv:2: transaction " + H(5) + " of block 1 " + H(0x1) +
                     " says something else than at transactions.csv:2"));
  const std::string receipts = "transaction_hash,gas_used,block_number,status\n";
  const std::string receipt = H(5) + ",1,1,\n";
  CHECK(error("receipts.csv", receipts + receipt + receipt + H(5) + ",1,1,1\n") == "");
  CHECK(Contains(error("receipts.csv", receipts + receipt + H(5) + ",2,1,\n"),
                 "receipts.csv:3: the receipt of transaction " + H(5) + " says something else"));
  const std::string traces =
      "block_number,transaction_hash,from_address,to_address,value,trace_type,trace_address\n";
  const std::string trace = "1," + H(5) + "," + A(1) + "," + A(2) + ",";
  CHECK(error("traces.csv", traces + trace + "1,call,0_7\n" + trace + "1,call,\"0,7\"\n") == "");
  CHECK(Contains(error("traces.csv", traces + trace + "1,call,0_7\n" + trace + "2,call,0_7\n"),
                 "traces.csv:3: the trace with trace_address \"0,7\" of transaction " + H(5)));
  const std::string withdrawals = "block_number,index,validator_index,address,amount\n";
  const std::string withdrawal = "1,1,1," + A(1) + ",";
  CHECK(error("withdrawals.csv", withdrawals + withdrawal + "3\n" + withdrawal + "3\n") == "");
  CHECK(Contains(error("withdrawals.csv", withdrawals + withdrawal + "3\n" + withdrawal + "4\n"),
                 "withdrawals.csv:3: withdrawal 1 of block 1 says something else"));
  CHECK(Contains(
      Read({{"blocks.csv", block},
            {"transactions.csv", "transaction_index," + kTransactions + "0," + Transfer(5, "", 1) +
                                     "0," + Transfer(6, "", 1)}})
          .error,
      "transactions.csv:3: transaction " + H(6) +
          " has the transaction_index 0 of another one in block 1, at transactions.csv:2"));
}

TEST_CASE("ingest blocks: equal rewards of one file all count, those of another are the same") {
  const std::string block = kBlocks + Block(1, 0x1, 0x9);
  const std::string head =
      "block_number,from_address,to_address,value,trace_type,reward_type,trace_id\n";
  const auto reward = [](const std::string& value, const std::string& id) {
    return "1,," + A(7) + "," + value + ",reward,uncle," + id + "\n";
  };
  const auto count = [&](const std::string& first, const std::string& second) {
    const Outcome outcome = Read(
        {{"blocks.csv", block}, {"traces_1.csv", head + first}, {"traces_2.csv", head + second}});
    return outcome.error == "" ? std::to_string(outcome.blocks[0].system_transfers_size())
                               : outcome.error;
  };
  CHECK(count(reward("3", "") + reward("3", ""), reward("3", "")) == "2");
  CHECK(count(reward("3", ""), reward("3", "") + reward("3", "") + reward("4", "")) == "3");
  CHECK(count(reward("3", "r0") + reward("3", "r1") + reward("3", "r1"), reward("3", "r0")) == "2");
  CHECK(Contains(count(reward("3", "r0"), reward("4", "r0")),
                 "traces_2.csv:2: the trace r0 says something else than at traces_1.csv:2"));
}

TEST_CASE("ingest blocks: an excerpt makes up headers") {
  const std::string receipts =
      "block_number,block_timestamp,miner,base_fee_per_gas,transaction_hash,transaction_index,"
      "gas_used,effective_gas_price\n";
  const std::string traces =
      "block_number,transaction_hash,transaction_index,from_address,to_address,value,trace_type,"
      "call_type,reward_type,trace_address,error\n";
  const Outcome outcome = ReadExcerpt(
      {{"receipts.csv", receipts + "9,555," + A(7) + ",30," + H(5) + ",4,21,31\n"},
       {"traces.csv", traces + "9," + H(5) + ",4," + A(1) + "," + A(2) +
                          ",8,call,call,,,Reverted\n" + "9,,,," + A(7) + ",2,reward,,block,,\n"},
       {"transactions.csv", kTransactions + Transfer(6, H(0x77), 7) + Transfer(8, "", 8)}});
  REQUIRE(outcome.error == "");
  REQUIRE(outcome.blocks.size() == 3);
  const pb::Header& first = outcome.blocks[0].header();
  CHECK(first.number() == 7);
  CHECK(first.synthetic());
  CHECK(Hex(first.hash()) == H(0x77));
  CHECK(first.parent_hash() == std::string(32, '\0'));
  CHECK(first.timestamp_s() == 0);
  CHECK(first.miner().empty());
  CHECK(!outcome.blocks[0].coverage().receipts());
  CHECK(!outcome.blocks[0].coverage().rewards());
  CHECK(outcome.blocks[0].coverage().base_fee());  // block 7 of eip155:1 is from before base fees
  CHECK(outcome.blocks[0].transactions(0).outcome() == pb::OUTCOME_UNKNOWN);

  const pb::Header& second = outcome.blocks[1].header();
  CHECK(Hex(second.parent_hash()) == H(0x77));
  CHECK(second.hash() == core::Keccak256("leat.excerpt|eip155:1|8").View());

  const pb::BlockObserved& third = outcome.blocks[2];
  CHECK(third.header().parent_hash() == second.hash());
  CHECK(third.header().timestamp_s() == 555);
  CHECK(Hex(third.header().miner()) == A(7));
  CHECK(Decimal(third.header().base_fee_per_gas()) == "30");
  REQUIRE(third.transactions_size() == 1);  // made from its root trace
  const pb::Transaction& made = third.transactions(0);
  CHECK(Hex(made.hash()) == H(5));
  CHECK(made.index() == 4);
  CHECK(Hex(made.from()) == A(1));
  CHECK(Hex(made.to()) == A(2));
  CHECK(Decimal(made.value()) == "8");
  CHECK(made.outcome() == pb::OUTCOME_FAILURE);
  CHECK(third.coverage().receipts());
  CHECK(third.coverage().traces());
  CHECK(third.coverage().statuses());
  CHECK(third.coverage().rewards());

  // A header where there is one: its facts, with gaps and without a parent.
  const Outcome mixed =
      ReadExcerpt({{"blocks.csv", kBlocks + Block(9, 0x99, 0x88) + Block(5, 0x55, 0x44)},
                   {"transactions.csv", kTransactions + Transfer(6, H(0x77), 7)}},
                  "eip155:5");
  REQUIRE(mixed.blocks.size() == 3);
  CHECK(!mixed.blocks[2].header().synthetic());
  CHECK(Hex(mixed.blocks[2].header().parent_hash()) == H(0x88));
  CHECK(Hex(mixed.blocks[1].header().parent_hash()) == H(0x55));
  CHECK(mixed.blocks[0].coverage().base_fee());
  CHECK(!mixed.blocks[1].coverage().base_fee());

  CHECK(Contains(ReadExcerpt({{"blocks.csv", kBlocks + Block(7, 0x7, 0x6)},
                              {"transactions.csv", kTransactions + Transfer(6, H(0x77), 7)}})
                     .error,
                 "transactions.csv:2: block 7 " + H(0x77) + " beside " + H(0x7) +
                     " of the same number at blocks.csv:2 (an excerpt cannot reorganise"));
  CHECK(Contains(
      ReadExcerpt({{"receipts.csv",
                    receipts + "9,1,,," + H(5) + ",1,21,31\n" + "9,2,,," + H(6) + ",2,21,31\n"},
                   {"transactions.csv", kTransactions + Transfer(5, "", 9) + Transfer(6, "", 9)}})
          .error,
      "receipts.csv:3: field block_timestamp of block 9 says something else"));
}

TEST_CASE("ingest blocks: what a transaction paid when the receipt does not say") {
  const auto price = [](const std::string& base_fee, const std::string& fields) {
    const Outcome outcome =
        Read({{"blocks.csv", "base_fee_per_gas," + kBlocks + base_fee + "," + Block(1, 0x1, 0x9)},
              {"transactions.csv",
               "transaction_type,gas_price,max_fee_per_gas,max_priority_fee_per_gas," +
                   kTransactions + fields + "," + Transfer(5, "", 1)}});
    REQUIRE(outcome.error == "");
    const pb::Transaction& transaction = outcome.blocks[0].transactions(0);
    return transaction.has_effective_gas_price() ? Decimal(transaction.effective_gas_price())
                                                 : "none";
  };
  CHECK(price("10", "0,7,,") == "7");
  CHECK(price("10", "1,7,,") == "7");
  CHECK(price("10", ",7,,") == "7");
  CHECK(price("10", "2,7,50,3") == "13");
  CHECK(price("10", "2,7,12,3") == "12");
  CHECK(price("10", ",7,12,3") == "12");  // a maximum says that it is of type 2
  CHECK(price("10", "2,7,,") == "7");
  CHECK(price("", "2,7,50,3") == "7");
  CHECK(price("", "2,,50,3") == "none");
  const std::string most =
      "115792089237316195423570985008687907853269984665640564039457584007913129639935";
  CHECK(price("10", "2,7," + most + "," + most) == most);
}

TEST_CASE("ingest blocks: the price of blob gas by excess, chain and time") {
  const auto price = [](const std::string& chain, uint64_t timestamp_s, uint64_t excess) {
    ReadOptions options;
    options.chain = chain;
    const Outcome outcome =
        Read({{"blocks.csv", "number,hash,parent_hash,miner,timestamp,excess_blob_gas\n1," + H(1) +
                                 "," + H(9) + "," + A(1) + "," + std::to_string(timestamp_s) + "," +
                                 std::to_string(excess) + "\n"},
              {"transactions.csv",
               "transaction_type,blob_count," + kTransactions + "3,1," + Transfer(5, "", 1)}},
             options);
    REQUIRE(outcome.error == "");
    const pb::Transaction& transaction = outcome.blocks[0].transactions(0);
    CHECK(transaction.blob_gas_used() == 131072);
    return transaction.has_blob_gas_price() ? Decimal(transaction.blob_gas_price()) : "none";
  };
  constexpr uint64_t kCancun = 1'710'338'135;
  CHECK(price("eip155:1", kCancun, 0) == "1");
  CHECK(price("eip155:1", kCancun, 2 * 1024 * 1024) == "1");
  CHECK(price("eip155:1", kCancun, 10 * 1024 * 1024) == "23");
  CHECK(price("eip155:1", kCancun, 148'099'578) == "18446739238971471609");  // EIP-4844's table
  CHECK(price("eip155:1", 1'746'612'311, 10 * 1024 * 1024) == "8");
  CHECK(price("eip155:1", 1'765'290'071, 10 * 1024 * 1024) == "none");
  CHECK(price("eip155:7", 1'765'290'071, 10 * 1024 * 1024) == "23");
  CHECK(price("eip155:1", kCancun, UINT64_MAX) == "none");
}

TEST_CASE("ingest blocks: what is covered") {
  const auto coverage = [](const std::string& chain, const std::string& number,
                           const std::string& difficulty, const std::string& base_fee,
                           const std::string& traces) {
    ReadOptions options;
    options.chain = chain;
    const Outcome outcome = Read(
        {{"blocks.csv", "number,hash,parent_hash,miner,timestamp,difficulty,base_fee_per_gas\n" +
                            number + "," + H(1) + "," + H(9) + "," + A(1) + ",1," + difficulty +
                            "," + base_fee + "\n"},
         {"traces.csv", "block_number,from_address,to_address,value,trace_type,reward_type\n" +
                            (traces.empty() ? "" : number + ",," + A(7) + ",1," + traces + "\n")}},
        options);
    REQUIRE(outcome.error == "");
    const pb::Coverage& found = outcome.blocks[0].coverage();
    CHECK(found.receipts());
    CHECK(found.traces());
    CHECK(found.statuses());
    return std::string(found.rewards() ? "r" : "-") + (found.base_fee() ? "b" : "-");
  };
  CHECK(coverage("eip155:1", "0", "5", "", "") == "-b");
  CHECK(coverage("eip155:1", "0", "5", "", "genesis,") == "rb");
  CHECK(coverage("eip155:1", "1", "5", "", "") == "-b");
  CHECK(coverage("eip155:1", "1", "5", "", "reward,block") == "rb");
  CHECK(coverage("eip155:1", "1", "5", "", "reward,uncle") == "-b");
  CHECK(coverage("eip155:1", "12964999", "0", "", "") == "rb");
  CHECK(coverage("eip155:1", "12965000", "0", "", "") == "r-");
  CHECK(coverage("eip155:1", "12965000", "", "0", "") == "-b");
  CHECK(coverage("eip155:99", "12965000", "0", "", "") == "rb");
}

TEST_CASE("ingest blocks: bad fields are named with file, line and remedy") {
  const auto error = [](const std::string& name, const std::string& bytes) {
    return Read({{name, bytes}}).error;
  };
  const std::string too_large =
      "115792089237316195423570985008687907853269984665640564039457584007913129639936";
  const auto block = [&](const std::string& fields) {
    return error("blocks.csv",
                 "number,hash,parent_hash,miner,timestamp,difficulty\n" + fields + "\n");
  };
  const std::string ids = H(1) + "," + H(9) + ",";
  CHECK(block("1," + ids + A(1) + ",1," + too_large) ==
        "blocks.csv:2: field difficulty: \"" + too_large +
            "\" is not a whole number from 0 to 2^256-1 (write decimal digits only)");
  CHECK(Contains(block("1," + ids + A(1) + ",1,-1"),
                 "blocks.csv:2: field difficulty: \"-1\" is not a whole number"));
  CHECK(Contains(block("-1," + ids + A(1) + ",1,1"),
                 "blocks.csv:2: field number: \"-1\" is not a number from 0 to 2^64-1"));
  CHECK(Contains(block("0x1," + ids + A(1) + ",1,1"), "field number: \"0x1\" is not a number"));
  CHECK(Contains(block("18446744073709551616," + ids + A(1) + ",1,1"), "field number: "));
  CHECK(block("18446744073709551615," + ids + A(1) + ",1,1") == "");
  CHECK(Contains(block("," + ids + A(1) + ",1,1"),
                 "blocks.csv:2: field number: is empty (every row of this kind needs it)"));
  CHECK(Contains(block("1,," + H(9) + "," + A(1) + ",1,1"), "field hash: is empty"));
  CHECK(Contains(block("1,0x12," + H(9) + "," + A(1) + ",1,1"),
                 "field hash: \"0x12\" is not a 32-byte hash"));
  CHECK(Contains(block("1," + ids + "0xZZ" + A(1).substr(4) + ",1,1"),
                 "field miner: \"0xZZ00000000000000000000000000000000000001\" is not an address"));
  CHECK(block("1," + ids + "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed,1,1") == "");
  CHECK(block("1," + ids + "0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED,1,1") == "");
  CHECK(Contains(block("1," + ids + "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed,1,1"),
                 "field miner: \"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed\" has a wrong EIP-55 "
                 "checksum (check the address, or write it in lower case)"));

  CHECK(error("blocks.csv", "number,hash,miner,timestamp\n") ==
        "blocks.csv:1: blocks need the column parent_hash (export the column with ethereum-etl, or "
        "name the file after what it holds: blocks, transactions, receipts, traces, withdrawals)");
  CHECK(Contains(error("blocks.json", "{\"number\":1,\"hash\":\"x\"}\n"),
                 "blocks.json:1: blocks need the column parent_hash"));
  CHECK(Contains(error("withdrawals.csv", "block_number,index,validator_index,address\n"),
                 "withdrawals.csv:1: withdrawals need the column amount_gwei"));
  CHECK(Contains(error("export.json", "{\"type\":\"uncle\"}\n"),
                 "export.json:1: field type: \"uncle\" is not a type of row"));
  CHECK(Contains(error("export.json", "{\"number\":1}\n"),
                 "export.json:1: neither a type, nor the members, nor the file's name say"));
  CHECK(Contains(error("export.csv", "number\n"),
                 "export.csv:1: neither its name nor its columns say what the file holds"));

  const auto trace = [&](const std::string& fields) {
    return error("traces.csv",
                 "block_number,transaction_hash,from_address,to_address,value,trace_type,call_type,"
                 "trace_address,status\n1," +
                     fields + "\n");
  };
  const std::string parties = H(5) + "," + A(1) + "," + A(2) + ",";
  CHECK(Contains(trace(parties + "1,burn,,,"),
                 "traces.csv:2: field trace_type: \"burn\" is not known (call, create,"));
  CHECK(Contains(trace(parties + "1,call,jump,,"), "field call_type: \"jump\" is not known"));
  CHECK(Contains(trace(parties + "1,call,,0-1,"),
                 "field trace_address: \"0-1\" is not a trace address (write 0,1 or 0_1 or [0,1]"));
  CHECK(Contains(trace(parties + "1,call,,0_,"), "field trace_address: \"0_\""));
  CHECK(Contains(trace(parties + "1,call,,,2"), "field status: 2 is not a status"));
  CHECK(
      Contains(trace("," + A(1) + "," + A(2) + ",1,call,,,"), "field transaction_hash: is empty"));
  CHECK(Contains(trace(",,,1,genesis,,,"), "field to_address: is empty (a genesis needs it)"));
  CHECK(Contains(trace(",," + A(2) + ",1,daofork,,,"), "field from_address: is empty"));

  const auto transaction = [&](const std::string& column, const std::string& value) {
    return error("transactions.csv",
                 column + "," + kTransactions + value + "," + Transfer(5, "", 1));
  };
  CHECK(Contains(transaction("input", "0x123"), "transactions.csv:2: field input: is not hex"));
  CHECK(Contains(transaction("input", "0x12xx"), "field input: is not hex"));
  CHECK(Contains(transaction("blob_versioned_hashes", "0x12"), "field blob_versioned_hashes: "));
  CHECK(
      Contains(transaction("max_fee_per_blob_gas", "1e3"), "field max_fee_per_blob_gas: \"1e3\""));
  CHECK(Contains(transaction("transaction_type", "256"), "field transaction_type: 256"));
  CHECK(Contains(transaction("receipt_gas_used,receipt_status", "1,7"),
                 "field receipt_status: 7 is not a status"));
  CHECK(Contains(error("blocks.csv", "withdrawals," + kBlocks + "[{}]," + Block(1, 1, 9)),
                 "blocks.csv:2: field withdrawals: is not a JSON array of withdrawals"));
  CHECK(Contains(
      error("blocks.csv", "withdrawals," + kBlocks +
                              "\"[{\"\"index\"\":1,\"\"validator_index\"\":2,\"\"address\"\":\"\"" +
                              A(1) + "\"\",\"\"amount\"\":-3}]\"," + Block(1, 1, 9)),
      "blocks.csv:2: field withdrawals[0].amount: \"-3\" is not a number"));
  CHECK(Contains(error("blocks.csv.gz", "\x1f\x8b\x08"),
                 "blocks.csv.gz: the gzip data is truncated"));
}

TEST_CASE("ingest blocks: folders, kinds and paths") {
  const TempFolder folder;
  const auto write = [&](const std::string& name, const std::string& bytes) {
    std::ofstream(folder.File(name), std::ios::binary) << bytes;
  };
  std::filesystem::create_directory(folder.File("in"));
  std::filesystem::create_directory(folder.File("in/old_blocks"));
  write("in/b_blocks.csv", kBlocks + Block(1, 0x1, 0x9));
  write("in/a_blocks.csv", kBlocks + Block(2, 0x2, 0x1));
  write("in/uncles.csv", "not read");
  write("export.csv", kTransactions + Transfer(5, "", 1));
  ReadOptions options;
  options.chain = "eip155:1";
  options.scratch_dir = folder.File("scratch");
  options.paths = {folder.File("in"), folder.File("export.csv")};  // the last by its columns
  const auto reader = BlockReader::Open(options);
  REQUIRE(reader);
  CHECK((*reader)->summary().blocks == 2);
  CHECK((*reader)->summary().transactions == 1);

  const auto error = [&](const std::string& path) {
    ReadOptions other = options;
    other.paths = {folder.File(path)};
    return BlockReader::Open(other).error();
  };
  CHECK(error("nothing").error_class == ErrorClass::kNotFound);
  CHECK(Contains(error("nothing").Text(), "/nothing: there is no such file or folder"));
  CHECK(
      Contains(error("in/old_blocks").Text(), "no file in this folder says its kind by its name"));
  options.paths.clear();
  CHECK(Contains(BlockReader::Open(options).error().Text(), "no files were given"));
}

}  // namespace
}  // namespace leat::ingest
