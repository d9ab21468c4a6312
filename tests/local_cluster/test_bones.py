"""The small parts: processes, interrupts, progress, claims, DNS, the command line."""

import io
import ipaddress
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import cli, commands, dns, interrupts, processes
from local_cluster.checkout import Checkout, read_json, write_atomically
from local_cluster.errors import ClusterError, CommandFailedError
from local_cluster.native import cleanup, slots
from local_cluster.processes import Daemon, Daemons
from local_cluster.progress import Progress
from tests.local_cluster.places import names


@pytest.fixture
def no_interrupt():
    interrupts.forget()
    yield
    interrupts.forget()


def test_a_daemon_is_known_by_its_id_and_start_time(tmp_path):
    daemons = Daemons(tmp_path / "processes.json", tmp_path / "logs")
    daemon = daemons.start("sleeper", ["sleep", "60"])
    assert daemon.alive()
    assert daemons.get("sleeper") == daemon
    assert not Daemon(daemon.pid, daemon.started + 1).alive()  # somebody else with the same id
    daemon.signal(signal.SIGKILL)
    interrupts.wait_for("it ends", lambda: not daemon.alive(), 5)
    assert daemons.dead() == ["sleeper"]
    with pytest.raises(ClusterError, match="not running any more"):
        daemon.signal(signal.SIGTERM)


def test_a_daemon_that_ended_is_shown_with_its_last_words(tmp_path):
    daemons = Daemons(tmp_path / "processes.json", tmp_path / "logs")
    daemon = daemons.start("short", ["sh", "-c", "echo cannot listen; exit 3"])
    interrupts.wait_for("it ends", lambda: not daemon.alive(), 5)
    with pytest.raises(ClusterError, match="short ended while starting:\ncannot listen"):
        daemons.must_live()


def test_a_daemon_enters_its_group_before_it_is_the_program(tmp_path):
    group = tmp_path / "cgroup.procs"
    daemons = Daemons(tmp_path / "processes.json", tmp_path / "logs")
    daemon = daemons.start("quick", ["sh", "-c", f"cat {group} > {tmp_path}/seen"], [group])
    interrupts.wait_for("it ends", lambda: not daemon.alive(), 5)
    assert (tmp_path / "seen").read_text() == "0\n"


def test_a_daemon_that_cannot_enter_its_group_does_not_run(tmp_path):
    daemons = Daemons(tmp_path / "processes.json", tmp_path / "logs")
    daemon = daemons.start("never", ["touch", tmp_path / "ran"], [tmp_path / "none" / "cgroup.procs"])
    interrupts.wait_for("it ends", lambda: not daemon.alive(), 5)
    assert not (tmp_path / "ran").exists()


def test_a_name_with_spaces_and_parentheses_is_no_trap(tmp_path):
    program = tmp_path / "a (b) c"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    assert processes._start_time(child.pid) is not None
    child.kill()
    child.wait()
    assert processes._start_time(child.pid) is None


def test_a_failed_command_shows_what_it_printed():
    with pytest.raises(CommandFailedError, match="status 7:\nout\nerr"):
        commands.run("sh", "-c", "echo out; echo err >&2; exit 7")


def test_a_missing_program_is_named():
    with pytest.raises(ClusterError, match="no-such-program"):
        commands.run("no-such-program")


def test_an_interrupted_command_ends_with_all_its_children(tmp_path, no_interrupt):
    interrupts._remember(signal.SIGINT, None)
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(interrupts.Interrupted):
        commands.run("sh", "-c", script)
    child = tmp_path / "child"
    if child.exists() and child.read_text().strip():
        pid = int(child.read_text())
        interrupts.wait_for("it ends", lambda: processes._start_time(pid) is None, 5)
    assert commands.run("echo", "on") == "on\n"  # an interrupt is delivered once: tidying up goes on


def test_signals_are_heard_before_anything_else_is_imported():
    """Else Ctrl-C in the first tenths of a second shows a traceback."""
    program = "import runpy, signal, sys; sys.argv[1:] = ['status']; sys.modules['local_cluster.cli'] = None\n"
    program += "try: runpy.run_module('local_cluster', run_name='__main__')\n"
    program += "except ImportError: signal.raise_signal(signal.SIGINT); print('heard')"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"heard\n"


def test_a_condition_that_never_holds_is_named():
    with pytest.raises(ClusterError, match="the moon is full: not so after 0 s"):
        interrupts.wait_for("the moon is full", lambda: False, 0.05, every=0.01)


def test_progress_tells_the_step_its_number_and_its_time():
    out = io.StringIO()
    progress = Progress({"build": 60.0, "start": 5.0}, out)
    with progress.step("build"):
        assert progress._left("build", 20.0) == "about 45 s left"
        assert progress._left("build", 70.0) == "about 5.0 s left (longer than expected)"
    with pytest.raises(ClusterError), progress.step("start"):
        raise ClusterError("no")
    first, second = out.getvalue().splitlines()
    assert first.startswith("  [1/2] build: 0.")
    assert second.startswith("  [2/2] start: stopped after 0.")


def test_routes_of_the_machine_are_read():
    routes = '[{"dst":"default"},{"dst":"10.89.0.0/24"},{"dst":"192.0.2.2"}]'
    wanted = [ipaddress.IPv4Network("10.89.0.0/24"), ipaddress.IPv4Network("192.0.2.2/32")]
    assert slots.networks_in_use(routes) == wanted


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CLAIMS", tmp_path / "claims")
    monkeypatch.setattr(slots.commands, "run", lambda *_words: '[{"dst":"10.97.0.0/16"}]')
    return tmp_path


def test_each_checkout_gets_a_slot_whose_addresses_are_free(registry):
    first, second = Checkout(registry / "first"), Checkout(registry / "second")
    assert slots.claim(first).number == 0
    assert slots.claim(second).number == 2  # 10.97.0.0/16, the services of slot 1, is in use
    assert slots.claim(first).number == 0
    assert slots.slot_of(second) == slots.Slot(2)


def test_the_last_claim_takes_the_registry_with_it(registry):
    checkout = Checkout(registry / "first")
    slots.release(slots.claim(checkout))
    assert slots.slot_of(checkout) is None
    assert not slots.CLAIMS.exists()


def test_mounts_below_a_directory_are_found_the_deepest_first():
    line = "36 35 98:0 / {} rw,noatime master:1 - ext4 /dev/root rw"
    mountinfo = "\n".join(line.format(path) for path in ("/a", "/a/b\\040c", "/a/b\\040c/d", "/ab"))
    assert cleanup.mounts_below(Path("/a"), mountinfo) == ["/a/b c/d", "/a/b c", "/a"]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "deep" / "file.json"
    write_atomically(file, "{}", mode=0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    assert names(file.parent) == ["file.json"]
    assert read_json(file) == {}
    assert read_json(tmp_path / "none") is None


def test_one_command_at_a_time_changes_a_checkout(tmp_path):
    (tmp_path / "local_cluster").mkdir()
    checkout = Checkout(tmp_path)
    with (
        checkout.lock(),
        pytest.raises(ClusterError, match="another local_cluster command is at work"),
        checkout.lock(),
    ):
        pass
    with checkout.lock():
        assert names(tmp_path / "local_cluster") == []


def test_a_failed_start_leaves_its_logs_and_nothing_else(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.logs.mkdir(parents=True)
    (checkout.state / "pki").mkdir()
    checkout.kubeconfig.touch()
    checkout.remove_state(keep_logs=True)
    assert names(checkout.state) == ["logs"]
    checkout.remove_state()
    assert not checkout.state.exists()


def test_a_dns_question_is_spelt_in_labels():
    assert dns.question("a.bc").endswith(b"\x01a\x02bc\x00\x00\x01\x00\x01")


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        (struct.pack("!6H", 0x6D75, 0x8180, 1, 1, 0, 0), True),
        (struct.pack("!6H", 0x6D75, 0x8183, 1, 0, 0, 0), False),  # no such name
        (struct.pack("!6H", 0x0001, 0x8180, 1, 1, 0, 0), False),  # to somebody else's question
        (b"short", False),
    ],
)
def test_only_an_answer_to_our_question_counts(reply, good):
    assert dns.has_answer(reply) is good


@pytest.mark.parametrize("words", [["--help"], ["up", "--help"], ["node", "--help"], ["build-image", "--help"]])
def test_help_is_there(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    assert "usage: python3 -m local_cluster" in capsys.readouterr().out


@pytest.mark.parametrize("nodes", ["-1", "three"])
def test_a_number_of_nodes_that_is_none_is_told_with_what_is_wanted(nodes, capsys):
    with pytest.raises(SystemExit):
        cli.main(["up", "--nodes", nodes])
    assert f"{nodes}: wanted a whole number, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("context", ["/nowhere", "/proc/self"])
def test_a_build_of_what_is_not_there_is_told_so(context, capsys):
    assert cli.main(["build-image", "localhost/a:1", context]) == 1
    assert "is not there: wanted CONTEXT with a Dockerfile" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fly"], ["up", "--nodes", "-1"], ["node", "paint", "node-1"]])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_it_needs_nothing_but_the_standard_library():
    root = Path(cli.__file__).parent.parent
    script = "import sys; import local_cluster.cli; print(*{n.partition('.')[0] for n in sys.modules})"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {script}"]
    loaded = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    foreign = {name for name in loaded if not name.startswith("_")} - sys.stdlib_module_names
    assert foreign == {"local_cluster"}
