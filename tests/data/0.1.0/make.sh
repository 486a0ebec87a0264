# How these checkpoints were made, with batchmill 0.1.0 and Python 3.11, in a folder of these files.
hostname golden
cd "$(dirname "$0")"
cp f.txt f.py
batchmill run f.py:work first.jsonl -c run.ckpt --limit 17 --chunk-size 4 -q            # exit 3
batchmill run f.py:work items.jsonl -c run.ckpt --resume --chunk-size 4 -q              # exit 1
batchmill results run.ckpt > run.jsonl
batchmill failures run.ckpt --items > failed.jsonl
batchmill exec words.txt -c exec.ckpt -q --shell 'test {} != false && echo {}' > /dev/null  # exit 1
python -c "import batchmill, f; batchmill.run(f.rich, range(27), checkpoint='values.ckpt')"
