# Backlog 0a, 40 s.
. device/env.sh
cp device/model.1 /tmp/kit/
xz -dc device/packages.tar.xz | tar x -C /tmp
python3 -c "import server.app, faiss, bitsandbytes, semantic_text_splitter, rouge_score, bm25s"
run_tests tests/gpu/test_cuda.py -m "not model" 2>&1 | tee "$OUT/test_cuda.log" | tail -60
