#!/usr/bin/env bash
# Calls of Docker's API through the docker command, and what comes of each, without what differs from one
# time to the next: to compare two ways to the same engine. Run it on a host, with DOCKER_HOST.
set -uo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What a command says, on both ways out, and its code.
told() { # NAME CMD...
  local name=$1 output code
  shift
  output=$("$@" 2>&1 </dev/null)
  code=$?
  show "$name" "$code" "$output"
}

fed() { # NAME INPUT CMD...: with input that ends
  local name=$1 output code
  output=$(bash -c "$2" | "${@:3}" 2>&1)
  code=$?
  show "$name" "$code" "$output"
}

on_terminal() { # NAME COMMAND LINE
  local output
  output=$(script -qec "$2" /dev/null </dev/null 2>&1)
  show "$1" $? "$output"
}

show() { # NAME CODE OUTPUT
  echo "$1: $2 $(tr -d '\r' <<<"$3" | sed -E -e 's/\b([0-9a-f]{64}|[0-9a-f]{12})\b/ID/g' -e 's/[0-9.]+ ?(s|seconds|minutes|hours)( ago)?\b/TIME/g')"
}

quietly() { "$@" >/dev/null 2>&1; }

told version docker version -f '{{.Server.Version}} {{.Server.APIVersion}}'
told info docker info -f '{{.Name}} {{.Driver}} {{.Images}}'
told df docker system df --format '{{.Type}} {{.TotalCount}}'
told images docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
told image docker image inspect -f '{{.Os}} {{.Config.Cmd}}' lab
told 'no image' docker image inspect nobody
told history docker history -q lab
told tag docker tag lab lab:other
told untag docker rmi lab:other
told 'pull fails' sh -c 'docker pull -q 127.0.0.1:1/x >/dev/null 2>&1'
told 'login fails' sh -c 'docker login -u u -p p 127.0.0.1:1 >/dev/null 2>&1'
told plugins docker plugin ls
told 'no plugin' docker plugin inspect nobody
told 'enable no plugin' docker plugin enable nobody
told 'remove no plugin' docker plugin rm nobody
told 'no swarm' docker service ls
told 'no nodes' docker node ls
told 'no secrets' docker secret ls
told 'leave no swarm' docker swarm leave

none='--network none'
# shellcheck disable=SC2086
{
  told run docker run --rm $none lab echo hi
  told 'run fails' docker run --rm $none lab sh -c 'echo err >&2; exit 7'
  told 'run nothing' sh -c 'docker run --rm --network none lab /nonsense >/dev/null 2>&1'
  fed 'run input' 'seq 200000' docker run -i --rm $none lab sh -c 'sleep 0.2; md5sum'
  fed 'run input errors' 'seq 3' docker run -i --rm $none lab sh -c 'cat >&2'
  on_terminal 'run terminal' "docker run -t --rm $none lab tty"
  told run-d sh -c "docker run -d --name calls --label a=b $none lab | wc -c"
  told 'run twice' docker create --name calls lab
}
told ps docker ps --filter label=a=b --format '{{.Names}} {{.Image}} {{.Labels}}'
told inspect docker inspect -f '{{.Name}} {{.State.Status}} {{.HostConfig.NetworkMode}}' calls
told nobody docker inspect nobody
told exec docker exec calls sh -c 'echo out; exit 3'
told 'exec errors' docker exec calls sh -c 'echo err >&2'
fed 'exec input' 'seq 200000' docker exec -i calls sh -c 'sleep 0.2; md5sum'
on_terminal 'exec terminal' 'docker exec -t calls sh -c "tty; exit 4"'
on_terminal 'exec terminal input' 'echo hello | docker exec -i calls head -n 1'
told 'exec output' sh -c 'docker exec calls seq 300000 | md5sum'
told 'exec detached' docker exec -d calls true
told 'exec environment' docker exec -e A=b -w /tmp -u 1:1 calls sh -c 'echo $A $PWD $(id -u)'
told 'exec nothing' docker exec calls /nonsense
head -c 20000000 /dev/zero >"$work/big"
told 'cp in' sh -c "docker cp $work/big calls:/tmp/big 2>/dev/null"
told sum docker exec calls md5sum /tmp/big
told 'cp out' sh -c 'docker cp calls:/tmp/big - | wc -c'
told 'cp nothing' docker cp calls:/nonsense -
told top sh -c 'docker top calls | wc -l'
told stats docker stats --no-stream --format '{{.Name}} {{.PIDs}}' calls
told 'stats stream' sh -c 'timeout 10 docker stats --format "{{.Name}}" calls | head -n 3 | grep -c calls'
told diff docker diff calls
told pause docker pause calls
told paused docker inspect -f '{{.State.Status}}' calls
told unpause docker unpause calls
told rename docker rename calls calls2
told update docker update --restart on-failure:2 -m 64m --memory-swap 128m calls2
told 'restart policy' docker inspect -f '{{.HostConfig.RestartPolicy}} {{.HostConfig.Memory}}' calls2
told export sh -c 'docker export calls2 | tar -xO tmp/big | md5sum'
told commit sh -c 'docker commit -m new calls2 calls:new >/dev/null; docker image inspect -f "{{.Comment}} {{.RepoTags}}" calls:new'
told restart docker restart -t 0 calls2
told stop docker stop -t 0 calls2
told 'exec stopped' docker exec calls2 true
told start docker start calls2
told kill docker kill calls2
told wait docker wait calls2
told rm docker rm calls2
told 'rm again' docker rm calls2
told 'rmi new' sh -c 'docker rmi calls:new | head -n 1'

quietly docker create -i --name fed --network none lab md5sum
fed 'start attached' 'seq 100000' docker start -ai fed
quietly docker rm fed
quietly docker create -t --name terminal --network none lab tty
on_terminal 'start attached terminal' 'docker start -a terminal'
quietly docker rm terminal
quietly docker run -d --name held --network none lab sh -c 'while :; do echo tick; sleep 0.1; done'
told attach sh -c 'timeout 10 docker attach --no-stdin --sig-proxy=false held | head -n 3'
quietly docker rm -f held
quietly docker run -d --name log --network none lab sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done'
told 'logs follow' docker logs -f log
told 'logs tail' docker logs --tail 1 log
quietly docker rm -f log
quietly docker run -d --name again --restart on-failure:1 --network none lab sh -c 'exit 5'
told restarts sh -c 'docker wait again; docker inspect -f "{{.RestartCount}}" again'
quietly docker rm -f again

since=$(date +%s)
told volume docker volume create calls
told volumes docker volume ls -q
told 'inspect volume' docker volume inspect -f '{{.Driver}} {{.Name}}' calls
told 'volume used' docker run --rm --network none -v calls:/there lab sh -c 'echo kept >/there/it; cat /there/it'
told 'remove volume' docker volume rm calls
told events docker events --since "$since" --until "$(($(date +%s) + 1))" --filter type=volume --filter volume=calls --format '{{.Action}}'
told 'prune volumes' docker volume prune -f
told network sh -c 'docker network create calls | wc -c'
told 'inspect network' docker network inspect -f '{{.Name}} {{.Driver}}' calls
told networks docker network ls --format '{{.Name}} {{.Driver}}'
quietly docker run -d --name member --network calls lab
told 'its networks' docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' member
told disconnect docker network disconnect calls member
told connect docker network connect --alias x calls member
told 'network in use' sh -c 'docker network rm calls 2>&1 | grep -o "has active endpoints"'
quietly docker rm -f member
told 'remove network' docker network rm calls

# 200 MB that do not compress, out and in again, as a file and as a stream.
quietly docker run -d --name large --network none lab
quietly docker exec large sh -c 'head -c 200000000 /dev/urandom >/big; md5sum </big >/sum'
quietly docker commit large large:1
quietly docker rm -f large
told save docker save -o "$work/large.tar" large:1
quietly docker rmi large:1
told load docker load -i "$work/large.tar"
told loaded docker run --rm --network none large:1 sh -c '[ "$(md5sum </big)" = "$(cat /sum)" ] && echo the same'
rm "$work/large.tar"
told 'save stream' sh -c 'docker save lab | tar -t | grep -c manifest.json'
told import sh -c "tar -cC $work big | docker import - imported | wc -c"
quietly docker rmi large:1 imported

# The classic builder, and BuildKit where this client and the engine have it.
mkdir "$work/context"
mv "$work/big" "$work/context/"
printf 'FROM lab\nCOPY big /\nRUN md5sum /big >/sum\n' >"$work/context/Dockerfile"
printf 'FROM lab\nRUN exit 3\n' >"$work/context/broken"
for kit in 0 1; do
  # Clients of later versions build with a part of their own, which may not be there.
  docker=docker
  [[ $kit == 0 || $(docker buildx version 2>/dev/null) ]] || docker=/usr/bin/docker
  if [[ $kit == 1 && ! $($docker buildx version 2>/dev/null) && $($docker version -f '{{.Client.Version}}') != 20.* ]]; then
    echo 'skipped: this client has no BuildKit'
    continue
  fi
  told "build $kit" sh -c "DOCKER_BUILDKIT=$kit $docker build -q --no-cache -t built $work/context 2>/dev/null | wc -w"
  told "builder $kit" sh -c "DOCKER_BUILDKIT=$kit $docker build -t built $work/context 2>&1 | grep -q '\[internal\]' && echo BuildKit || echo classic"
  told "built $kit" docker run --rm --network none built cat /sum
  told "build fails $kit" sh -c "DOCKER_BUILDKIT=$kit $docker build --no-cache --force-rm -f $work/context/broken $work/context >/dev/null 2>&1"
  fed "build of input $kit" "tar -cC $work/context ." env DOCKER_BUILDKIT=$kit sh -c "$docker build --no-cache -t built - >/dev/null 2>&1"
  quietly docker rmi built
  quietly docker image prune -f
done
told 'prune builds' sh -c 'docker builder prune -af 2>/dev/null | tail -n 1 | cut -d: -f1'
told prune docker container prune -f
