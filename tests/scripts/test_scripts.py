"""The launch scripts: real shells in a copy of the repository, with a stand-in for the Python of the ranks."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from entry import ROOT, write_yaml
from rank_tables import table, write
from script_tree import ASCEND, CPU, GPU, MODELS, Tree, gone, wait_until

from common.config.load import load_config
from common.errors import UserError
from common.launch.job import Request, models, understand
from common.launch.processes import last_lines
from gmlp.src.spec import SPEC

SINGLE = [f"run_{what}_{device}.sh" for what in ("standalone_train", "eval") for device in ("ascend", "gpu", "cpu")]
MAE = [f"{task}_{form}.sh" for task in ("pretrain", "finetune", "eval") for form in ("distribute", "dist")]

def only_sentence(result: subprocess.CompletedProcess) -> str:
    """Return the sentence of a mistake, after checking that there is nothing else."""
    assert result.returncode == 2 and result.stdout == "", (result.returncode, result.stdout, result.stderr)
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
    return result.stderr.strip()


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


def test_a_rank_per_device_with_the_environment_of_the_cluster(tree):
    write(table(2, 3), tree.table)
    result = tree.run(ASCEND, tree.table, "../gmlp/config/gmlp_a.yaml", "--lr", "0.1", "--hflip=0", SERVER_ID="1",
                      RANK_TABLE_FILE="/old.json", ASCEND_RT_VISIBLE_DEVICES="7", MS_NODE_ID="9")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in tree.records.iterdir()) == ["2", "3", "4"]  # the scheduler is beside rank 0
    for local, rank in enumerate("234"):
        words, env = tree.record(rank)
        assert words == [f"{tree.root}/gmlp/train.py", "--config_path", f"{tree.root}/gmlp/config/gmlp_a.yaml",
                         "--device_target", "Ascend", "--distribute", "True", "--lr", "0.1", "--hflip=0"]
        expected = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "5", "MS_SCHED_HOST": "10.9.8.1", "MS_SCHED_PORT": "8118",
                    "MS_NODE_ID": rank, "RANK_ID": rank, "RANK_SIZE": "5", "DEVICE_ID": str(local)}
        assert {name: env.get(name) for name in expected} == expected
        assert not {"RANK_TABLE_FILE", "ASCEND_RT_VISIBLE_DEVICES"} & set(env)
        assert env["cwd"] == f"{tree.root}/scripts/train_parallel_ascend{local}"


def test_devices_that_do_not_begin_at_0_are_shown_alone_and_the_first_server_has_the_scheduler(tree):
    document = table(2, 1)
    for one, name in zip(document["server_list"][0]["device"], ("6", "4")):
        one["device_id"] = name
    write(document, tree.table)
    for script, variable in ((ASCEND, "ASCEND_RT_VISIBLE_DEVICES"), (GPU, "CUDA_VISIBLE_DEVICES")):
        result = tree.run(script, tree.table, "gmlp_a.yaml", SERVER_ID="0", MASTER_PORT="9000", MASTER_ADDR="10.1.1.1",
                          RANK_ID="9")
        assert (result.returncode, result.stderr) == (0, "")
        for rank, device in (("0", "1"), ("1", "0")):
            _, env = tree.record(rank)
            assert (env[variable], env["DEVICE_ID"]) == ("4,6", device)
        _, env = tree.record("scheduler")
        assert {name: env[name] for name in env if name.startswith("MS_")} == {
            "MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "3", "MS_SCHED_HOST": "10.1.1.1", "MS_SCHED_PORT": "9000"}
        assert "RANK_ID" not in env and (Path(env["cwd"]) / "scheduler.log").is_file()


@pytest.mark.parametrize("script", [ASCEND, GPU, CPU])
def test_a_list_of_hosts_takes_the_place_of_a_table(script, tree):
    shown = tree.run(script, "gmlp_a.yaml", "--dry_run", HOSTS="10.0.0.1:1,10.0.0.2:3", SERVER_ID="10.0.0.2",
                     CUDA_VISIBLE_DEVICES="5,6,7").stdout
    assert [f"MS_NODE_ID={rank} RANK_ID={rank} RANK_SIZE=4 DEVICE_ID={rank - 1} " in shown for rank in range(4)] == [
        False, True, True, True]
    assert shown.count("MS_SCHED_HOST=10.0.0.1 MS_SCHED_PORT=8118") == 3 and "VISIBLE_DEVICES" not in shown


def test_a_rank_leaves_log_environment_pid_and_code(tree):
    assert tree.run(ASCEND, tree.table, "gmlp_a.yaml", SECRET="x").returncode == 0
    for number in "01":
        folder = f"train_parallel_ascend{number}"
        assert tree.result(folder, "log") == f"rank {number} is at work\n"
        assert int(tree.result(folder, "pid")) == int(tree.record(number)[1]["pid"])
        assert tree.result(folder, "exit_code") == "0\n"
        assert {"SECRET=x", f"RANK_ID={number}"} <= set(tree.result(folder, "env.log").splitlines())
        assert (tree.root / "scripts" / folder / "env.log").stat().st_mode & 0o77 == 0


def test_only_the_progress_of_rank_0_is_shown(tree):
    shown = tree.run(ASCEND, tree.table, "gmlp_a.yaml").stdout
    assert "rank 0 is at work\n" in shown and "rank 1 is at work" not in shown
    assert f"{tree.root}/scripts/train_parallel_ascend0/log" in shown


@pytest.mark.parametrize("script", SINGLE)
def test_scripts_for_one_process(script, tree):
    result = tree.run(script, "config/soft_a.yaml", RANK_TABLE_FILE="/old.json", RANK_ID="5", DEVICE_ID="3")
    assert (result.returncode, result.stderr) == (0, "")
    device = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}[script[:-3].rsplit("_")[-1]]
    task = "eval" if "eval" in script else "train"
    words, env = tree.record("alone")
    assert words == [f"{tree.root}/soft/{task}.py", "--config_path", f"{tree.root}/soft/config/soft_a.yaml",
                     "--device_target", device, "--distribute", "False"]
    assert env["cwd"] == f"{tree.root}/scripts/{task}" and not {"RANK_TABLE_FILE", "RANK_ID"} & set(env)
    assert env["DEVICE_ID"] == "3"
    assert tree.result(task, "log") == "rank alone is at work\n"


@pytest.mark.parametrize("script", MAE)
def test_scripts_of_mae(script, tree):
    assert tree.run(script, tree.table, "../mae/config/mae_a.yaml", shell="sh").returncode == 0
    words, env = tree.record("1")
    task = script.split("_")[0]
    assert words[0] == f"{tree.root}/mae/{task}.py" and words[4] == "Ascend" and words[6] == "True"
    assert env["cwd"].endswith("/eval1" if task == "eval" else "/train_parallel1")  # the old zoo's names


@pytest.mark.parametrize("shell", ["bash", "sh", "dash"])
@pytest.mark.parametrize("place, config", [("scripts", "../gmlp/config/gmlp_a.yaml"), (".", "gmlp/config/gmlp_a.yaml"),
                                           ("gmlp", "config/gmlp_a.yaml"), ("..", "the zoo/gmlp/config/gmlp_a.yaml")])
def test_scripts_work_from_everywhere_with_every_shell(shell, place, config, tree):
    if not shutil.which(shell, path="/usr/bin:/bin"):
        pytest.skip(f"no {shell} here")
    shown = tree.run(ASCEND, os.path.relpath(tree.table, tree.root / place), config, "--dry_run",
                     cwd=tree.root / place, shell=shell)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(f"'{tree.root}/gmlp/train.py' --config_path '{tree.root}/gmlp/config/gmlp_a.yaml'") == 2


def test_the_scripts_folder_of_a_model_tells_the_model(tree):
    shown = subprocess.run('cd soft/scripts && bash run_eval_cpu.sh ../config/both.yml --dry_run', shell=True, text=True,
                           cwd=tree.root, env=tree.environment(), capture_output=True, timeout=60)
    assert f"'{tree.root}/soft/eval.py'" in shown.stdout, shown.stderr
    assert all((ROOT / model / "scripts").resolve() == ROOT / "scripts" for model in MODELS)


def test_a_script_is_also_a_program(tree):
    result = subprocess.run([tree.root / "scripts/run_eval_cpu.sh", "gmlp_a.yaml"], env=tree.environment(), timeout=300)
    assert result.returncode == 0 and tree.record("alone")[0][0].endswith("gmlp/eval.py")


def test_dry_run_prints_what_starts_and_starts_nothing(tree):
    shown = tree.run(ASCEND, tree.table, "gmlp_a.yaml", "--dry_run", "--class_names", "a b").stdout
    assert not list(tree.records.iterdir()) and not list((tree.root / "scripts").glob("train*"))
    assert tree.run(ASCEND, tree.table, "gmlp_a.yaml", "--class_names", "a b").returncode == 0
    comment, command = shown.splitlines()[2:4]
    assert comment.startswith("# rank 1 of 2 on device 1 in ")
    before = tree.record("1")
    (tree.records / "1").unlink()
    subprocess.run(["bash", "-c", command], env=tree.environment(), check=True, timeout=300)
    after = tree.record("1")
    assert after[0] == before[0] and after[0][-1] == f"{tree.root}/scripts/a b"
    for name in ("pid", "_", "SHLVL", "OLDPWD", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_INPUT", "PIP_USER",
                 "MS_SCHED_PORT"):  # each start finds a free port
        before[1].pop(name, None)
        after[1].pop(name, None)
    assert after[1] == before[1]


def test_cores_are_bound_when_there_are_enough(tree):
    cores = sorted(os.sched_getaffinity(0))
    write(table(len(cores)), tree.table)
    shown = tree.run(ASCEND, tree.table, "gmlp_a.yaml", "--dry_run").stdout
    assert re.findall(r"taskset -c (\S+) ", shown) == [str(core) for core in cores]
    write(table(len(cores) + 1), tree.table)
    shown = tree.run(ASCEND, tree.table, "gmlp_a.yaml", "--dry_run").stdout
    assert shown.count("# rank") == len(cores) + 1 and "taskset" not in shown


def test_paths_on_the_command_line_start_where_the_user_is(tree):
    (tree.root / "here").mkdir()
    (tree.root / "here" / "ids.txt").touch()  # without a file they are the names of images
    given = ["--ckpt_path", "a.ckpt", "--data_dir=../x", "--img_ids", "ids.txt", "--img_ids", "x.png", "--eval_dir",
             "/abs", "--resume=", "--train_data_path", "obs://b/c", "--model", "here"]
    assert tree.run("run_eval_cpu.sh", "gmlp_a.yaml", *given, cwd=tree.root / "here").returncode == 0
    assert tree.record("alone")[0][7:] == ["--ckpt_path", f"{tree.root}/here/a.ckpt", f"--data_dir={tree.root}/x",
                                           "--img_ids", f"{tree.root}/here/ids.txt", *given[5:]]


def test_paths_in_the_file_start_where_the_user_is_too(tree, monkeypatch):
    """A rank runs in a folder of its own, so that it is told where the user was."""
    here = tree.root / "here"
    (here / "data").mkdir(parents=True)
    (here / "a.yaml").write_text("data_dir: ./data\neval_dir: obs://b/c\nenable_modelarts: true\nckpt_path: /abs\n")
    assert tree.run(ASCEND, "gmlp", f"../../{tree.table.name}", "a.yaml", cwd=here).returncode == 0
    _, env = tree.record("1")
    assert env["ZOO_CALLER"] == str(here) and env["cwd"] != str(here)
    monkeypatch.setenv("ZOO_CALLER", env["ZOO_CALLER"])
    monkeypatch.chdir(env["cwd"])
    config = load_config(["--config_path", str(here / "a.yaml")], task="train", spec=SPEC, model_dir=ROOT / "gmlp")
    assert (config.data_dir, config.eval_dir, config.ckpt_path) == (str(here / "data"), "obs://b/c", "/abs")
    assert config.ckpt_save_dir == "./outputs"  # results stay in the folder of the rank
    (here / "data").rmdir()  # what is still to be fetched does not go into the folder of the model
    again = load_config(["--config_path", str(here / "a.yaml")], task="train", spec=SPEC, model_dir=ROOT / "gmlp")
    assert again.data_dir == str(here / "data")


def test_what_the_user_says_himself_is_not_said_twice(tree):
    assert tree.run("run_eval_gpu.sh", "gmlp_a.yaml", "--device_target=CPU").returncode == 0
    assert tree.record("alone")[0][3:] == ["--distribute", "False", "--device_target=CPU"]


def test_earlier_results_are_moved_aside_together(tree):
    scripts = tree.root / "scripts"
    write(table(3), tree.table)
    for run in range(3):
        assert tree.run(ASCEND, tree.table, "gmlp_a.yaml").returncode == 0
        (scripts / "train_parallel_ascend0" / "mine").write_text(str(run))
        write(table(2), tree.table)
    assert sorted(path.name for path in scripts.glob("train_parallel*")) == [
        f"train_parallel_ascend{name}" for name in ("0", "0.1", "0.2", "1", "1.1", "1.2", "2.1")]
    assert [tree.result(f"train_parallel_ascend0{end}", "mine") for end in (".1", ".2", "")] == ["0", "1", "2"]


def test_results_go_where_the_user_wants_them(tree):
    result = tree.run("run_standalone_train_cpu.sh", "gmlp_a.yaml", RESULTS_DIR="my results")
    assert result.returncode == 0 and (tree.root / "scripts/my results/train/log").is_file()
    (tree.root / "scripts/file").touch()
    assert "RESULTS_DIR" in only_sentence(tree.run("run_eval_cpu.sh", "gmlp_a.yaml", RESULTS_DIR="file"))


def test_a_failing_rank_ends_the_others_and_gives_its_code(tree):
    write(table(3), tree.table)
    result = tree.run(ASCEND, tree.table, "gmlp_a.yaml", FAIL="1", AWAIT="4", STAY="300")
    assert result.returncode == 7
    assert "error: rank 1 (device 1) ended with code 7" in result.stderr
    assert "train_parallel_ascend1/log" in result.stderr and "it broke on rank 1" in result.stderr
    assert all(map(gone, tree.wait_for("0", "1", "2")))
    assert [tree.result(f"train_parallel_ascend{number}", "exit_code") for number in "012"] == ["143\n", "7\n", "143\n"]
    alone = tree.run("run_eval_cpu.sh", "gmlp_a.yaml", FAIL="alone")
    assert alone.returncode == 7 and "others" in result.stderr and "others" not in alone.stderr


def test_a_rank_that_is_killed_ends_the_others(tree):
    process = tree.start(ASCEND, tree.table, "gmlp_a.yaml", STAY="300")
    pids = tree.wait_for("0", "1")
    os.kill(int(tree.result("train_parallel_ascend1", "pid")), signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGKILL and "rank 1" in error and all(map(gone, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_script_ends_every_rank(number, tree):
    process = tree.start(ASCEND, tree.table, "gmlp_a.yaml", STAY="300")
    pids = tree.wait_for("0", "1")
    wait_until(lambda: all((tree.root / f"scripts/train_parallel_ascend{i}/pid").exists() for i in (0, 1)))
    process.send_signal(number)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 128 + number and error == "" and "ending all ranks" in out
    assert all(map(gone, pids))


def test_a_second_interrupt_kills_ranks_that_do_not_listen(tree):
    process = tree.start(ASCEND, tree.table, "gmlp_a.yaml", STAY="300", DEAF="yes")
    pids = tree.wait_for("0", "1")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
    process.communicate(timeout=300)
    assert process.returncode == 130 and all(map(gone, pids))


def test_no_wait_leaves_the_ranks_at_work_and_says_how_to_end_them(tree):
    result = tree.run(ASCEND, tree.table, "gmlp_a.yaml", STAY="300", NO_WAIT="1")
    pids = tree.wait_for("0", "1")
    assert result.returncode == 0 and not any(map(gone, pids))
    again = only_sentence(tree.run(ASCEND, tree.table, "gmlp_a.yaml"))
    assert "still goes on" in again and str(pids[0]) in again
    command = re.search(r"to end it: (.*)", result.stdout)[1]
    subprocess.run(["bash", "-c", command], check=True, timeout=300)
    wait_until(lambda: all(map(gone, pids)))
    assert tree.run(ASCEND, tree.table, "gmlp_a.yaml").returncode == 0


def test_training_goes_on_when_nobody_reads_the_progress_any_more(tree):
    process = tree.start(ASCEND, tree.table, "gmlp_a.yaml", STAY="1")
    process.stdout.close()
    assert process.wait(timeout=300) == 0 and process.stderr.read() == ""
    process.stderr.close()


def test_a_scheduler_that_fails_ends_the_ranks_with_its_sentence(tree):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (tree.bin / "python").write_text((tree.bin / "python").read_text().replace("name=scheduler ;;", "exec "
                                         f"'{sys.executable}' \"$@\" ;;"))
        result = tree.run(CPU, "gmlp_a.yaml", STAY="300", MASTER_PORT=port)
    assert result.returncode == 2 and "error: the scheduler, at which the processes meet, ended with code 2" in result.stderr
    assert f"the port {port} of 127.0.0.1" in result.stderr and "train_parallel_cpu0/scheduler.log" in result.stderr
    assert all(map(gone, tree.wait_for("0", "1")))


def test_a_dry_run_checks_the_configuration(tree):
    error = only_sentence(tree.run(CPU, "gmlp_a.yaml", "--dry_run", BAD="lr: 'x' is no number."))
    assert error == "error: lr: 'x' is no number."


def test_jobs_of_one_server_that_start_at_once_meet_at_different_ports(tree):
    ports = [re.search(r"MS_SCHED_PORT=(\d+)", tree.run(CPU, "gmlp_a.yaml", "--dry_run").stdout)[1] for _ in range(4)]
    assert len(set(ports)) > 1 and all(8118 <= int(port) < 8318 for port in ports)  # all equal: once in 8,000,000


def test_gpus_are_counted(tree):
    assert "DEVICE_NUM" in only_sentence(tree.run(GPU, "gmlp_a.yaml"))
    shown = tree.run(GPU, "gmlp_a.yaml", "--dry_run")
    assert shown.stdout.count("MS_WORKER_NUM=8 ") == 9 and "lists no GPU here" in shown.stderr
    tree.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: a'\necho 'GPU 1: b'\necho 'GPU 2: c'\n")
    for number, env in (("3", {}), ("2", {"CUDA_VISIBLE_DEVICES": "1,2"}), ("1", {"DEVICE_NUM": "1"})):
        shown = tree.run(GPU, "gmlp_a.yaml", "--dry_run", **env).stdout
        assert shown.count(f"MS_WORKER_NUM={number} ") == int(number) + 1 and "--device_target GPU" in shown
        assert "train_parallel_gpu0" in shown


@pytest.mark.parametrize("script, words, said", [
    (ASCEND, ["none.json", "gmlp_a.yaml"], "none.json: cannot be read"),
    (ASCEND, ["{table}"], "CONFIG_PATH is missing"),
    (ASCEND, ["gmlp"], "RANK_TABLE_FILE and CONFIG_PATH are missing"),
    (ASCEND, ["gmlp_a.yaml"], "RANK_TABLE_FILE is missing before 'gmlp_a.yaml'"),
    (ASCEND, ["gmlp_a.yaml", "{table}"], "first comes the rank table"),
    (ASCEND, ["sofft", "{table}", "gmlp_a.yaml"], "'sofft' is no model; there are convmlp, gmlp, hlg, mae, soft. Did "
                                                  "you mean 'soft'?"),
    (ASCEND, ["{table}", "gmlp_a.yaml", "more"], "'more' is one argument too many"),
    (ASCEND, ["gmlp", "{table}", "gmlp_a.yaml", "more"], "'more' is one argument too many"),
    (ASCEND, ["{table}", "--config_path", "gmlp_a.yaml"], "CONFIG_PATH is missing: here it is written without "
                                                          "--config_path"),
    ("run_eval_cpu.sh", ["{table}", "gmlp_a.yaml"], "looks like a rank table"),
    (GPU, ["gmlp_a.yaml", "{table}"], "first comes the rank table"),
    (CPU, ["gmlp_c.yaml"], "Did you mean 'gmlp_"),
    (CPU, ["../gmlp/config"], "'../gmlp/config' is a folder"),
    (CPU, ["config/both.yml"], "several models (mae, soft); give the model first"),
    (CPU, ["../my.yaml"], "does not tell the model by its folder; give the model first, one of convmlp, gmlp"),
    ("pretrain_distribute.sh", ["{table}", "gmlp_a.yaml"], "gmlp has no pretrain.py"),
])
def test_wrong_arguments_are_one_sentence(script, words, said, tree):
    (tree.root / "my.yaml").touch()
    assert said in only_sentence(tree.run(script, *(word.format(table=tree.table) for word in words)))
    assert not list((tree.root / "scripts").glob("train*")) and not list(tree.records.iterdir())


@pytest.mark.parametrize("name, value", [("LAUNCHER", "rank_table"), ("DEVICE_NUM", "0"), ("DEVICE_NUM", "x"),
                                         ("DEVICE_NUM", "9" * 5000), ("MASTER_PORT", "80"), ("MASTER_PORT", "9" * 5000), ("HOSTS", "10.0.0.1"),
                                         ("HOSTS", "a:1,a:1"), ("HOSTS", "a:1,b:1"),
                                         ("PYTHON", "no-such-python"), ("PYTHON", "too-old")])
def test_wrong_variables_are_one_sentence(name, value, tree):
    tree.program("too-old", "#!/bin/sh\nexit 1\n")
    assert name in only_sentence(tree.run(CPU, "gmlp_a.yaml", **{name: value}))


def test_the_model_is_told_by_the_path_or_by_the_user(tree):
    elsewhere = tree.root.parent / "runs" / "hlg"
    elsewhere.mkdir(parents=True)
    (elsewhere / "mine.yaml").touch()
    (tree.root / "my.yaml").touch()
    for words, model in ((["both.yml"], "mae"), (["soft", "both.yml"], "soft"), ([elsewhere / "mine.yaml"], "hlg"),
                         (["../my.yaml"], "mae"), (["gmlp", "../my.yaml"], "gmlp"), (["../config/soft_b.yml"], None),
                         (["../config/gmlp_b.yml"], "gmlp")):
        names = [word for word in words if word in MODELS]
        shown = tree.run("eval_distribute.sh", *names, tree.table, *words[len(names):], "--dry_run")
        assert (f"{tree.root}/{model}/eval.py" in shown.stdout) == (model is not None), shown
    assert "soft_b.yml" in only_sentence(shown := tree.run("eval_distribute.sh", tree.table, "soft_b.yml")) and shown


def test_a_repository_below_a_folder_with_the_name_of_a_model_is_no_riddle(tmp_path):
    tree = Tree(tmp_path / "mae")
    assert tree.run("run_eval_cpu.sh", "../soft/config/soft_a.yaml").returncode == 0
    assert tree.record("alone")[0][0] == f"{tree.root}/soft/eval.py"


@pytest.mark.parametrize("script", [ASCEND, GPU, CPU, *SINGLE, *MAE])
def test_every_script_explains_itself(script):
    path = ROOT / "scripts" / script
    shown = subprocess.run(["sh", path, "--help"], capture_output=True, text=True, timeout=300)
    again = subprocess.run(["sh", path], capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0 and again.returncode == 2 and again.stdout == "" and again.stderr == shown.stdout
    assert "CONFIG_PATH" in shown.stdout and "--dry_run" in shown.stdout
    distributed = "distribute" in script or "dist" in script
    assert ("SERVER_ID" in shown.stdout) == (distributed)
    assert len(path.read_text().splitlines()) < 12


def test_python_is_the_first_with_mindspore(tree):
    (tree.bin / "python").rename(tree.bin / "real")
    (tree.bin / "python").write_text("#!/bin/sh\nexit 1\n")
    (tree.bin / "python").chmod(0o755)
    shutil.copy(tree.bin / "python", tree.bin / "python3")
    assert "no Python 3.10 or newer with MindSpore" in only_sentence(tree.run("run_eval_cpu.sh", "gmlp_a.yaml"))
    venv = tree.root / ".venv" / "bin"
    venv.mkdir(parents=True)
    shutil.copy(tree.bin / "real", venv / "python")
    assert f"'{venv}/python'" in tree.run("run_eval_cpu.sh", "gmlp_a.yaml", "--dry_run").stdout
    assert f" {tree.bin}/real " in tree.run("run_eval_cpu.sh", "gmlp_a.yaml", "--dry_run", PYTHON="real").stdout


def test_last_lines_show_the_last_state_of_a_progress_bar(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"begin\n 1%\r 50%\r100%\nend \xff\n\n")
    assert last_lines(log) == "begin\n100%\nend \ufffd"
    assert last_lines(log, 1) == "end \ufffd" and "no log" in last_lines(tmp_path / "none")


def test_the_models_are_those_with_an_entry_point():
    assert set(models()) == set(MODELS)


@pytest.mark.parametrize("folder, name, found", [
    ("soft/scripts", "../config/eval.yml", "soft/config/SOFT_eval.yml"), ("mae/scripts", "../config/eval.yml", None),
    ("gmlp/scripts", "../configs/gmlp/gmlp_Ti.yaml", "gmlp/config/gmlp_Ti.yaml")])
def test_files_are_found_by_their_names_in_the_original_versions(folder, name, found):
    job = understand(Request("standalone", "cpu", "eval"), [name], sys.executable, ROOT / folder, {})
    assert job.config == ROOT / (found or "mae/config/eval.yml")


def test_a_wait_that_is_no_number_is_refused(tmp_path):
    file = write(table(1), tmp_path / "t.json")
    with pytest.raises(UserError, match="RANK_TABLE_WAIT"):
        understand(Request("distribute", "ascend", "train"), [str(file), "gmlp_Ti.yaml"],
                              sys.executable, tmp_path, {"RANK_TABLE_WAIT": "soon"})


def test_scripts_are_clean_for_shellcheck():
    program = shutil.which("shellcheck")
    if not program:
        pytest.skip("no shellcheck here")
    files = sorted((ROOT / "scripts").glob("*.sh"))
    result = subprocess.run([program, *files], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout


@pytest.mark.distributed
def test_two_real_processes_train_on_the_cpu(tmp_path):
    config = write_yaml(tmp_path / "a tiny one.yaml", epochs=1, depth=1, mode="pynative")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DEVICE_NUM")}
    result = subprocess.run(["sh", ROOT / "scripts" / CPU, "gmlp", config.name, "--ckpt_save_dir", "both"], text=True,
                            capture_output=True, timeout=1500, stdin=subprocess.DEVNULL, cwd=tmp_path,
                            env=env | {"PYTHON": sys.executable, "RESULTS_DIR": str(tmp_path / "results")})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 x CPU" in result.stdout and "Finish training!" in result.stdout
    assert [(tmp_path / f"results/train_parallel_cpu{rank}/exit_code").read_text() for rank in (0, 1)] == ["0\n"] * 2
    assert {"log_rank_0.txt", "log_rank_1.txt", "history.jsonl"} <= set(os.listdir(tmp_path / "both"))
    assert len(list((tmp_path / "both").glob("*-1_*.ckpt"))) == 1
