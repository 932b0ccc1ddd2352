# What is compared with the published truth. Data outside the project: the tests say so, and skip loudly without it.
set(LEAT_SHARED ${CMAKE_SOURCE_DIR}/../shared/data CACHE PATH "Folder with the large public data sets")

add_executable(ledger_cases golden/ledger_cases.cc)
target_link_libraries(ledger_cases PRIVATE leat_node nlohmann_json::nlohmann_json ZLIB::ZLIB)
add_test(NAME golden_ledger_cases
  COMMAND ledger_cases --cases ${LEAT_SHARED}/golden/ledger_cases.jsonl.gz)
set_tests_properties(golden_ledger_cases PROPERTIES LABELS golden SKIP_RETURN_CODE 77 TIMEOUT 900)

add_test(NAME golden_real_blocks
  COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/golden/run_real_blocks.py
    --leat $<TARGET_FILE:leat> --shared ${LEAT_SHARED})
set_tests_properties(golden_real_blocks PROPERTIES LABELS golden SKIP_RETURN_CODE 77 TIMEOUT 900)

add_executable(mainnet_genesis golden/mainnet_genesis.cc)
target_link_libraries(mainnet_genesis PRIVATE leat_node)
add_test(NAME golden_mainnet_genesis
  COMMAND mainnet_genesis --sample ${CMAKE_SOURCE_DIR}/deploy/sample/mainnet_genesis)
set_tests_properties(golden_mainnet_genesis PROPERTIES LABELS golden TIMEOUT 900)
add_test(NAME golden_mainnet_genesis_published
  COMMAND mainnet_genesis --sample ${CMAKE_SOURCE_DIR}/deploy/sample/mainnet_genesis
    --published ${LEAT_SHARED}/mainnet_genesis)
set_tests_properties(golden_mainnet_genesis_published PROPERTIES
  LABELS golden SKIP_RETURN_CODE 77 TIMEOUT 900)
