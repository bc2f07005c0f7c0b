"""How fast this is: our figures beside a plain baseline and beside the limit of the machine,
measured together.

    measure.py    contenders interleaved round by round; medians and ratios (no torch)
    machine.py    where it runs: device, threads, ceilings of arithmetic and memory, FLOPs and bytes
                  of a network
    workers.py    groups of spawned processes that wait for each other; peak memory
    baseline.py   scoring and training as the paper's released code does them, written plainly
    scoring.py, training.py, many.py, scaling.py    one suite each
    levers.py     what each way to be faster was expected to bring, and brought (no torch)
    store.py      results/bench/<device>-<threads>.json
    render.py     those files -> one table and two pictures (no torch)

`python -m bench --help` says how to run it.
"""
