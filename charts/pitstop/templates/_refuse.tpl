{{/* What cannot work is refused here, all at once: each line names the value and the remedy. First what the values alone tell. */}}
{{- define "pitstop.refuse" -}}
{{- $problems := regexReplaceAll "\\n\\s*\\n" (include "pitstop.problems" .) "\n" | trim -}}
{{- with $problems }}{{ fail (printf "\n\nThis cannot work, so nothing is rendered:\n%s\n" .) }}{{ end }}
{{- end }}

{{- define "pitstop.problems" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- $p := ternary "" "pitstop." (eq .Chart.Name "pitstop") -}}
{{ include "pitstop.problemsOfImages" (list $v $p) }}
{{ include "pitstop.problemsOfBudget" (list $v $p) }}
{{ include "pitstop.problemsOfVolumes" (list $v $p (include "pitstop.currentDir" .)) }}
{{ include "pitstop.problemsOfSources" (list $v $p) }}
{{ include "pitstop.problemsOfShape" (list $v $p) }}
{{- if include "pitstop.isComplete" . }}
{{- range $label, $_ := include "pitstop.selector" . | fromYaml }}
{{- if or (hasKey $v.podLabels $label) (hasKey $v.commonLabels $label) }}
- podLabels or commonLabels has {{ $label }}, which the chart sets: its Deployment finds its pods by it. For a Service that selects the pods of several releases (a canary), give the pods of all of them another label.
{{- end }}
{{- end }}
{{- end }}
{{- if and (include "pitstop.isComplete" .) $v.ingress.enabled (not (and $v.service.enabled $v.ingress.hosts)) }}
- ingress.enabled needs service.enabled, and the names of your hosts in ingress.hosts.
{{- end }}
{{- if and (include "pitstop.isComplete" .) (not $v.app.image) (not $v.agent.inAppImage) }}
- app.image is empty: name the image with Ruby and what your gems need. (As a dependency of your chart, this one only lends its templates.)
{{- end }}
{{- if and (eq $v.releases.kind "shared") (not $v.releases.existingClaim) (ne .Chart.Name "pitstop") }}
- {{ $p }}releases.kind is shared: name the claim in {{ $p }}releases.existingClaim. (Only a whole app makes one.)
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfImages" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}
{{- if not $v.agent.image.repository }}
- {{ $p }}agent.image.repository is empty: name the registry that you pushed the image of docker/Dockerfile to.
{{- end }}
{{- if and $v.agent.inAppImage (not $v.app.image) }}
- {{ $p }}agent.inAppImage needs to know the image: set {{ $p }}app.image to what Puma's container runs.
{{- end }}
{{- $hooks := default dict $v.config.hooks }}{{- $command := default dict $v.config.command }}
{{- range $key, $line := dict "hooks.check" $hooks.check "command.restart" $command.restart "command.check" $command.check }}
{{- if and $line (not $v.agent.inAppImage) (ne $v.beside "exec") }}
- {{ $p }}config.{{ $key }} runs in the agent's container, whose own image holds nothing but pitstop, no Ruby and no shell: set {{ $p }}agent.inAppImage to true.
{{- end }}
{{- end }}
{{- if and $v.notifications.signed (not $v.notifications.existingSecret) }}
- {{ $p }}notifications.signed needs a Secret: name it in {{ $p }}notifications.existingSecret, with the keys `url` and `key`.
{{- end }}
{{- if and $v.notifications.existingSecret (default dict $v.config.notify).url }}
- {{ $p }}config.notify.url and {{ $p }}notifications.existingSecret both say where notifications go: leave {{ $p }}config.notify.url out.
{{- end }}
{{- if and $v.token.existingSecret $v.token.value }}
- {{ $p }}token.value and {{ $p }}token.existingSecret both say what the token is: leave {{ $p }}token.value out.
{{- end }}
{{- if and $v.token.existingSecret (not $v.token.enabled) }}
- {{ $p }}token.existingSecret names a token, and {{ $p }}token.enabled is false: leave one of them out.
{{- end }}
{{- if and $v.token.existingSecret (ne $v.config.state_dir "/run/pitstop") }}
- {{ $p }}token.existingSecret needs {{ $p }}config.state_dir to be /run/pitstop, where the preStop hook looks for the agent's socket: leave {{ $p }}config.state_dir out.
{{- end }}
{{- if and $v.token.enabled (not $v.token.existingSecret) (lt (len $v.token.value) 16) }}
- {{ $p }}token.value has fewer than 16 characters: without a token, anybody who reaches the pod can ask /prestop for a drain. Set it to a random text that stays the same (`openssl rand -hex 24`), or set {{ $p }}token.enabled to false.
{{- end }}
{{- range $key, $instead := dict "grace_period" "gracePeriodSeconds" "listen" "agent.port and agent.address" "token_file" "token" }}
{{- if hasKey $v.config $key }}
- {{ $p }}config.{{ $key }} follows from {{ $p }}{{ $instead }}: set that instead.
{{- end }}
{{- end }}
{{- end }}

{{/* As src/config/check.rs has it: the agent would refuse the same. */}}
{{- define "pitstop.problemsOfBudget" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}
{{- $drain := $v.config.drain -}}
{{- $min := include "pitstop.ms" (default "5s" $drain.min) | int64 -}}
{{- $reserve := include "pitstop.ms" (default "10s" $drain.reserve) | int64 -}}
{{- $left := sub (mul 1000 (int64 $v.gracePeriodSeconds)) (add $reserve 2000) -}}
{{- if gt $min $left }}
- {{ $p }}gracePeriodSeconds {{ int $v.gracePeriodSeconds }} is too short: {{ $p }}config.drain.min ({{ default "5s" $drain.min }}) + {{ $p }}config.drain.reserve ({{ default "10s" $drain.reserve }}) + 2s for the kubelet have to fit into it. Raise it to {{ div (add $min $reserve 2999) 1000 }} or more, or lower one of the others.
{{- end }}
{{- with $drain.max }}
{{- $max := include "pitstop.ms" . | int64 }}
{{- if gt $max $left }}
- {{ $p }}config.drain.max {{ . }} is longer than {{ $p }}gracePeriodSeconds {{ int $v.gracePeriodSeconds }} leaves after {{ $p }}config.drain.reserve and 2s for the kubelet: leave it out, or raise {{ $p }}gracePeriodSeconds to {{ div (add $max $reserve 2999) 1000 }}.
{{- end }}
{{- if lt $max $min }}
- {{ $p }}config.drain.max {{ . }} is shorter than {{ $p }}config.drain.min: leave it out.
{{- end }}
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfVolumes" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $currentDir := index . 2 -}}
{{- if and (eq $v.releases.kind "shared") (not $currentDir) }}
- {{ $p }}releases.kind is shared, and `current` lies on that volume: one link for all pods, though each pod moves and reverts its own. Set {{ $p }}config.current to a path outside of {{ $v.config.deploy_to }}, /srv/current/app for instance (an emptyDir is mounted at its directory), and `directory` in config/puma.rb to the same.
{{- end }}
{{- if eq $currentDir "/" }}
- {{ $p }}config.current {{ $v.config.current }} lies in the root directory, where no volume can be mounted: put it one directory deeper.
{{- end }}
{{- if and $v.storageClass.create (not $v.storageClass.fileSystemId) }}
- {{ $p }}storageClass.create needs {{ $p }}storageClass.fileSystemId: the EFS file system, fs-….
{{- end }}
{{- if and $v.storageClass.create (eq $v.releases.kind "emptyDir") }}
- {{ $p }}storageClass.create makes a class that nothing uses: set {{ $p }}releases.kind to ephemeral or shared.
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfShape" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}
{{- if and $v.beside (eq (default "puma" $v.config.app_server) "passenger") }}
- {{ $p }}beside is {{ $v.beside }}, and {{ $p }}config.app_server passenger, which cannot take listening sockets over. Leave {{ $p }}beside empty.
{{- end }}
{{- if and (not $v.beside) (eq (default "" (default dict $v.config.restart).mode) "beside") }}
- {{ $p }}config.restart.mode is beside, and nothing in the pod can start a second server: set {{ $p }}beside to sidecar or exec.
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfSources" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}
{{- $source := $v.config.source }}
{{- if not $source }}
- {{ $p }}config.source is empty: name the bucket, s3://bucket/prefix, or a directory.
{{- else if and (hasPrefix "/" $source) (not $v.store.volume) (not $v.agent.volumeMounts) }}
- {{ $p }}config.source {{ $source }} is a directory, and nothing is mounted there: set {{ $p }}store.volume.
{{- else if and (hasPrefix "s3:" $source) $v.store.volume }}
- {{ $p }}store.volume is for a directory, and {{ $p }}config.source is in S3: leave one of them out.
{{- end }}
{{- $file := hasPrefix "file:" (default "" $v.config.pointer) }}
{{- if and $file $v.pointer.configMap.name }}
- {{ $p }}config.pointer and {{ $p }}pointer.configMap.name both say what is followed: leave {{ $p }}config.pointer out.
{{- else if and $file (not $v.agent.volumeMounts) }}
- {{ $p }}config.pointer is a file, and nothing is mounted there: set {{ $p }}pointer.configMap.name, or mount it by {{ $p }}agent.volumeMounts.
{{- end }}
{{- end }}
