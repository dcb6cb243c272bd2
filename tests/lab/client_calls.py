#!/usr/bin/env python3
"""Calls of Docker's API through docker's library for Python, and what comes of each, without what
differs from one time to the next: a line for each call, to compare two ways to the same engine."""
import io
import re
import sys
import tarfile
import threading

import docker

client = docker.DockerClient(base_url=sys.argv[1], version="auto", timeout=60)
api = client.api


def told(name, call):
    try:
        result = call()
    except docker.errors.APIError as error:
        result = f"{error.response.status_code} {error.explanation}"
    print(re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", f"{name}: {result!r}"))


def archive(name, content):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def everything(socket):
    output = b""
    while more := socket._sock.recv(65536):
        output += more
    return output


def attached(words, data, tty):
    """What a container answers to input that ends."""
    container = client.containers.create("lab", words, stdin_open=True, tty=tty, network_mode="none")
    socket = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    container.start()
    socket._sock.sendall(data)
    if not tty:
        socket._sock.shutdown(1)
    output = everything(socket)
    code = container.wait()["StatusCode"]
    container.remove()
    return len(output), output[:60], code


def executed(container, words, data):
    """What a command answers to input that ends, and its code."""
    command = api.exec_create(container.id, words, stdin=True)["Id"]
    socket = api.exec_start(command, socket=True)
    socket._sock.sendall(data)
    socket._sock.shutdown(1)
    output = everything(socket)
    return output[8:60], api.exec_inspect(command)["ExitCode"]


def executed_on_terminal(container, words, data):
    command = api.exec_create(container.id, words, stdin=True, tty=True)["Id"]
    socket = api.exec_start(command, tty=True, socket=True)
    api.exec_resize(command, height=20, width=30)
    socket._sock.sendall(data)
    return everything(socket), api.exec_inspect(command)["ExitCode"]


def restarted():
    """How often a container was started again that its policy starts again once."""
    again = client.containers.run(
        "lab", ["sh", "-c", "exit 5"], detach=True, network_mode="none",
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 1},
    )
    again.wait()
    again.reload()
    count = again.attrs["RestartCount"]
    again.remove(force=True)
    return count


def large():
    """200 MB that do not compress, saved and loaded by pieces; whether they are the same."""
    container = client.containers.run("lab", detach=True, network_mode="none")
    container.exec_run(["sh", "-c", "head -c 200000000 /dev/urandom >/big; md5sum </big >/sum"])
    container.commit("large", "1")
    container.remove(force=True)
    saved = list(client.images.get("large:1").save(named=True))
    client.images.remove("large:1")
    loaded = client.images.load(iter(saved))[0].tags
    check = ["sh", "-c", "[ \"$(md5sum </big)\" = \"$(cat /sum)\" ] && echo same"]
    output = client.containers.run("large:1", check, remove=True, network_mode="none")
    client.images.remove("large:1")
    return loaded, sum(map(len, saved)) > 200000000, output


told("ping", client.ping)
told("version", lambda: client.version()["ApiVersion"])
told("info", lambda: sorted(client.info())[:20])
told("df", lambda: sorted(client.df()))
told("images", lambda: sorted(tag for image in client.images.list() for tag in image.tags))
told("image", lambda: client.images.get("lab").attrs["Os"])
told("no image", lambda: client.images.get("nobody"))
told("history", lambda: [layer["CreatedBy"] for layer in client.images.get("lab").history()])
told("tag", lambda: client.images.get("lab").tag("lab", "other"))
told("untag", lambda: client.images.remove("lab:other"))
told("search fails", lambda: api.inspect_distribution("127.0.0.1:1/x"))

for tty in (False, True):
    told(f"run tty={tty}", lambda: client.containers.run("lab", ["echo", "hi"], tty=tty, remove=True))
told("run fails", lambda: client.containers.run("lab", ["/nonsense"], remove=True).decode()[:0])
told("attach", lambda: attached(["md5sum"], b"x" * 300000, False))
told("attach counts", lambda: attached(["wc", "-c"], b"x" * 300000, False))
told("attach tty", lambda: attached(["head", "-n", "1"], b"hello\n", True))

container = client.containers.run("lab", name="calls", detach=True, labels={"a": "b"}, network_mode="none")
told("create twice", lambda: str(client.containers.create("lab", name="calls"))[:0])
told("list", lambda: [c.name for c in client.containers.list(filters={"label": "a=b"})])
told("get", lambda: client.containers.get("calls").status)
told("nobody", lambda: client.containers.get("nobody"))
told("exec", lambda: container.exec_run(["sh", "-c", "echo out; exit 3"]))
told("exec demux", lambda: container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True))
told("exec tty", lambda: container.exec_run(["echo", "hi"], tty=True))
told("exec stream", lambda: b"".join(container.exec_run(["seq", "20000"], stream=True).output)[-6:])
told("exec detach", lambda: container.exec_run(["true"], detach=True).output)
told("exec input", lambda: executed(container, ["md5sum"], b"x" * 300000))
told("exec input late", lambda: executed(container, ["sh", "-c", "sleep 0.3; wc -c"], b"x" * 300000))
told("exec input tty", lambda: executed_on_terminal(container, ["head", "-n", "1"], b"hello\n"))
told("exec workdir", lambda: container.exec_run(["pwd"], workdir="/tmp", environment={"A": "b"}).output)
told("put", lambda: container.put_archive("/tmp", archive("big", b"y" * 20000000)))
told("sum", lambda: container.exec_run(["md5sum", "/tmp/big"]).output)
told("get archive", lambda: sum(map(len, container.get_archive("/tmp/big")[0])))
told("get nothing", lambda: container.get_archive("/nonsense"))
told("stat", lambda: container.get_archive("/tmp/big")[1]["size"])
told("top", lambda: len(container.top()["Titles"]))
told("stats", lambda: sorted(container.stats(stream=False))[:5])
told("stats stream", lambda: len(next(container.stats(stream=True, decode=True))) > 5)
told("diff", lambda: [change["Path"] for change in container.diff()])
told("pause", container.pause)
told("paused", lambda: client.containers.get("calls").status)
told("unpause", container.unpause)
told("rename", lambda: container.rename("calls2"))
told("renamed", lambda: client.containers.get("calls2").name)
told("update", lambda: container.update(mem_limit="64m", memswap_limit="128m"))
told("resize", lambda: container.resize(20, 30))
told("export", lambda: sum(map(len, container.export())) > 20000000)
told("commit", lambda: container.commit("calls", "new").tags)
told("save and load", lambda: [i.tags for i in client.images.load(b"".join(client.images.get("calls:new").save(named=True)))])
told("remove image", lambda: client.images.remove("calls:new"))
told("kill", lambda: container.kill("KILL"))
told("wait", container.wait)
told("exec stopped", lambda: container.exec_run(["true"]).output[:0])
told("start", container.start)
told("restart", lambda: container.restart(timeout=0))
told("stop", lambda: container.stop(timeout=0))
told("remove", container.remove)

told("restart policy", restarted)
told("save and load large", large)

log = client.containers.run("lab", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"], detach=True, network_mode="none")
told("logs follow", lambda: b"".join(log.logs(stream=True, follow=True)))
told("logs tail", lambda: log.logs(tail=1))
log.remove()

events = client.events(decode=True, filters={"type": "volume"})
seen = []
reader = threading.Thread(target=lambda: [seen.append(event["Action"]) or (event["Action"] == "destroy" and events.close()) for event in events])
reader.start()
told("volume", lambda: client.volumes.create("calls").name)
told("volumes", lambda: [v.name for v in client.volumes.list()])
told("inspect volume", lambda: client.volumes.get("calls").attrs["Driver"])
told("volume used", lambda: client.containers.run(
    "lab", ["sh", "-c", "echo kept >/there/it; cat /there/it"], remove=True, network_mode="none",
    volumes={"calls": {"bind": "/there", "mode": "rw"}},
))
told("remove volume", lambda: client.volumes.get("calls").remove())
reader.join(10)
told("events", lambda: list(dict.fromkeys(seen)))
told("prune volumes", lambda: sorted(client.volumes.prune()))
told("network", lambda: client.networks.create("calls", driver="bridge").name)
network = client.networks.get("calls")
told("inspect network", lambda: client.networks.get("calls").attrs["Driver"])
told("networks", lambda: sorted(n.name for n in client.networks.list()))
member = client.containers.run("lab", name="member", detach=True, network="calls")
told("its network", lambda: list(client.containers.get(member.id).attrs["NetworkSettings"]["Networks"]))
told("disconnect", lambda: network.disconnect(member))
told("connect", lambda: network.connect(member, aliases=["x"]))
told("network in use", lambda: network.remove() and None)
member.remove(force=True)
told("remove network", network.remove)
told("prune networks", lambda: client.networks.prune({"label": ["calls"]}))
told("no plugin", lambda: client.plugins.get("nobody"))
told("plugins", lambda: client.plugins.list())
told("enable no plugin", lambda: api.enable_plugin("nobody"))
told("remove no plugin", lambda: api.remove_plugin("nobody"))
told("no services", lambda: client.services.list())
told("no nodes", lambda: client.nodes.list())
told("no secrets", lambda: client.secrets.list())
told("leave no swarm", lambda: client.swarm.leave())
told("no swarm", lambda: api.inspect_swarm()["ID"])

build = archive("Dockerfile", b"FROM lab\nRUN echo built > /made\n")
told("build", lambda: client.images.build(fileobj=io.BytesIO(build), custom_context=True, tag="built", rm=True)[0].tags)
told("built", lambda: client.containers.run("built", ["cat", "/made"], remove=True, network_mode="none"))
told("build fails", lambda: [line for line in api.build(fileobj=io.BytesIO(archive("Dockerfile", b"FROM\n")), custom_context=True)])
told("remove built", lambda: client.images.remove("built"))
told("import", lambda: api.import_image_from_data(archive("x", b"y"), repository="imported")[:9])
told("remove imported", lambda: client.images.remove("imported"))
told("prune images", lambda: sorted(client.images.prune()))
told("prune", lambda: sorted(client.containers.prune()))
told("login fails", lambda: str(client.login("u", "p", registry="127.0.0.1:1"))[:0])
