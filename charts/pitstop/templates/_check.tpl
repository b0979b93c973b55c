{{/* Looks at a pod as it was rendered: (list context "deployment.yaml") names the template that renders its Deployment, StatefulSet, … */}}
{{- define "pitstop.check" -}}
{{- $ := index . 0 -}}
{{- $file := index . 1 -}}
{{- $found := dict "pods" 0 -}}
{{- range regexSplit "(?m)^---" (include (printf "%s/%s" $.Template.BasePath $file) $) -1 -}}
{{- $object := fromYaml . -}}
{{- if $object.Error }}{{ fail (printf "%s renders no valid YAML: %s" $file $object.Error) }}{{ end -}}
{{- $template := default dict (default dict $object.spec).template -}}
{{- if hasKey $template "spec" -}}
{{- $_ := set $found "pods" 1 -}}
{{- include "pitstop.checkPod" (list $ $template) -}}
{{- end -}}
{{- end -}}
{{- if not $found.pods }}{{ fail (printf "pitstop.check: %s renders no pod" $file) }}{{ end -}}
{{- end }}

{{/* (list context podTemplate) */}}
{{- define "pitstop.checkPod" -}}
{{- $ := index . 0 -}}
{{- $template := index . 1 -}}
{{- $v := ternary $.Values $.Values.pitstop (eq $.Chart.Name "pitstop") -}}
{{- $p := ternary "" "pitstop." (eq $.Chart.Name "pitstop") -}}
{{- $pod := $template.spec -}}
{{- $agent := dict -}}
{{- $puma := dict -}}
{{- range concat (default list $pod.initContainers) (default list $pod.containers) -}}
{{- if eq .name (include "pitstop.agentContainer" $) }}{{ $agent = . }}{{ end -}}
{{- if eq .name $v.app.container }}{{ $puma = . }}{{ end -}}
{{- end -}}
{{- $arguments := list $v $p $pod $agent $puma -}}
{{- $problems := list -}}
{{- $problems = append $problems (include "pitstop.problemsOfPod" (append $arguments $template)) -}}
{{- if and $agent $puma -}}
{{- if ne $v.beside "exec" -}}
{{- $problems = append $problems (include "pitstop.problemsOfHook" $arguments) -}}
{{- end -}}
{{- $problems = append $problems (include "pitstop.problemsOfUsers" $arguments) -}}
{{- if $v.beside -}}
{{- $problems = append $problems (include "pitstop.problemsOfBeside" (append $arguments $)) -}}
{{- end -}}
{{- $problems = append $problems (include "pitstop.problemsOfLiveness" $arguments) -}}
{{- end -}}
{{- with regexReplaceAll "\\n\\s*\\n" (join "\n" $problems) "\n" | trim }}{{ fail (printf "\n\nThis pod cannot work, so nothing is rendered:\n%s\n" .) }}{{ end -}}
{{- end }}

{{- define "pitstop.problemsOfPod" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $pod := index . 2 -}}{{- $agent := index . 3 -}}{{- $puma := index . 4 -}}{{- $template := index . 5 -}}
{{- if and (not $agent) (ne $v.beside "exec") }}
- the pod has no container `pitstop`: include pitstop.initContainers in its initContainers{{ if eq $v.agent.kind "classic" }}, and pitstop.containers in its containers{{ end }}.
{{- end }}
{{- if not $puma }}
- the pod has no container `{{ $v.app.container }}`: set {{ $p }}app.container to the name of Puma's container.
{{- end }}
{{- if and (not $pod.shareProcessNamespace) (ne $v.beside "exec") }}
- the pod's shareProcessNamespace is not true, so that pitstop cannot see Puma: include pitstop.pod in the pod's spec.
{{- end }}
{{- if ne (toString $pod.terminationGracePeriodSeconds) (toString (int $v.gracePeriodSeconds)) }}
- the pod's terminationGracePeriodSeconds ({{ default "30, the default" $pod.terminationGracePeriodSeconds }}) is not {{ $p }}gracePeriodSeconds ({{ int $v.gracePeriodSeconds }}): leave it out and include pitstop.pod, which renders both from the one value.
{{- end }}
{{- range list "runAsUser" "runAsGroup" }}
{{- if hasKey (default dict $pod.securityContext) . }}
- the pod's securityContext.{{ . }} holds for the pause process too, which a shared process namespace makes process 1: one stray signal would end the whole pod. Set it on the containers.
{{- end }}
{{- end }}
{{- if and $v.token.enabled (not $v.token.existingSecret) (ne (get (default dict $template.metadata.annotations) "pitstop/token") $v.token.value) }}
- the pod's template lacks the annotation pitstop/token, from which the agent reads its token: include pitstop.podAnnotations in metadata.annotations, or set {{ $p }}token.enabled to false.
{{- end }}
{{- if and (hasKey $agent "livenessProbe") (ne $v.beside "exec") }}
- the container `pitstop` has a livenessProbe, which would end a drain that takes its time: remove it.
{{- end }}
{{- if and (hasKey $agent "lifecycle") (ne $v.beside "exec") }}
- the container `pitstop` has a hook of its own: remove it; only Puma's container asks /prestop.
{{- end }}
{{- range $agent.volumeMounts }}
{{- if and .subPath (eq .name "pitstop-pointer") }}
- the pointer is mounted by subPath, and such a mount never changes: mount the directory.
{{- end }}
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfHook" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $puma := index . 4 -}}
{{- $preStop := default dict (default dict $puma.lifecycle).preStop }}
{{- $hook := default dict $preStop.httpGet }}
{{- $command := default list (default dict $preStop.exec).command }}
{{- if and (has "drain" $command) (hasSuffix "pitstop" (toString (first $command))) }}
{{- range list "/opt/pitstop" $v.config.state_dir }}
{{- $path := . }}
{{- $mounted := false }}
{{- range $puma.volumeMounts }}{{ if eq .mountPath $path }}{{ $mounted = true }}{{ end }}{{ end }}
{{- if and (not $mounted) (or (ne $path "/opt/pitstop") (hasPrefix "/opt/pitstop/" (toString (first $command)))) }}
- the preStop hook of the container `{{ $puma.name }}` runs `pitstop drain`, and nothing is mounted at {{ $path }} there: add the volume {{ ternary "pitstop-bin (agent.inAppImage)" "pitstop-state" (eq $path "/opt/pitstop") }} to its volumeMounts.
{{- end }}
{{- end }}
{{- else if ne (default "" $hook.path) "/prestop" }}
- the container `{{ $puma.name }}` has no preStop hook that asks /prestop or runs `pitstop drain`, so that its pod ends without a drain: remove its own preStop hook, or include pitstop.lifecycle in its lifecycle{{ if not $p }}, or leave app.lifecycle empty{{ end }}.
{{- else }}
{{- if kindIs "string" $hook.port }}
- the preStop hook of the container `{{ $puma.name }}` names its port (`{{ $hook.port }}`), and a name is looked for in that container only: Kubernetes would send SIGTERM without a drain. Write the number, {{ int $v.agent.port }} ({{ $p }}agent.port).
{{- else if ne (int $hook.port) (int $v.agent.port) }}
- the preStop hook of the container `{{ $puma.name }}` asks port {{ int $hook.port }}, and the agent listens on {{ int $v.agent.port }} ({{ $p }}agent.port).
{{- end }}
{{- $sent := "" }}
{{- range default list $hook.httpHeaders }}
{{- if eq (lower .name) "authorization" }}{{ $sent = .value }}{{ end }}
{{- end }}
{{- if $v.token.existingSecret }}
- the preStop hook of the container `{{ $puma.name }}` asks /prestop, and Kubernetes takes no header from the Secret {{ $v.token.existingSecret }}: let the hook run `pitstop drain` (pitstop.lifecycle), or set {{ $p }}token.value.
{{- else if and $v.token.enabled (ne $sent (printf "Bearer %s" $v.token.value)) }}
- the preStop hook of the container `{{ $puma.name }}` does not send the token: /prestop would refuse it, and Kubernetes takes that for an answer. Its httpHeaders need an entry Authorization with "Bearer " and {{ $p }}token.value.
{{- end }}
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfUsers" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $agent := index . 3 -}}{{- $puma := index . 4 -}}
{{- range list "runAsUser" "runAsGroup" }}
{{- $ours := get (default dict $agent.securityContext) . }}
{{- if not (hasKey (default dict $puma.securityContext) .) }}
- the container `{{ $puma.name }}` does not say its {{ . }}, so that its image decides; pitstop may signal it only as the same user and group. Set its securityContext.{{ . }} to {{ $ours }} ({{ $p }}runAs).
{{- else if ne (int (get $puma.securityContext .)) (int $ours) }}
- {{ . }} of the container `{{ $puma.name }}` is {{ get $puma.securityContext . }}, and pitstop's is {{ $ours }}: it may neither look into Puma nor signal it. Make them equal by {{ $p }}runAs.
{{- end }}
{{- end }}
{{- end }}

{{- define "pitstop.problemsOfBeside" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $pod := index . 2 -}}{{- $puma := index . 4 -}}
{{- $off := printf "or leave %sbeside empty: releases are then deployed by a phased or hot restart" $p -}}
{{- if $pod.hostNetwork }}
- the pod's hostNetwork is true, so that any process of the node could take connections of two servers on one port. Leave hostNetwork out, {{ $off }}.
{{- end }}
{{- range list "startupProbe" "readinessProbe" "livenessProbe" }}
{{- if (default dict (get $puma .)).tcpSocket }}
- the {{ . }} of the container `{{ $puma.name }}` is a tcpSocket, which `pitstop exec` holds open: it succeeds before Puma has booted, and while Puma hangs. Ask a path by httpGet, {{ $off }}.
{{- end }}
{{- end }}
{{- $words := concat (default list $puma.command) (default list $puma.args) }}
{{- if or (not (has "exec" $words)) (not (hasSuffix "/pitstop" (toString (first (append $words ""))))) }}
- the container `{{ $puma.name }}` does not start Puma by `pitstop exec`: write its command with pitstop.command.
{{- else if ne (has "--sidecar" $words) (eq $v.beside "sidecar") }}
- the command of the container `{{ $puma.name }}` has {{ ternary "no `--sidecar`" "`--sidecar`" (eq $v.beside "sidecar") }}, and {{ $p }}beside is {{ $v.beside }}: write it with pitstop.command.
{{- end }}
{{- range $path := list "/opt/pitstop" $v.config.state_dir }}
{{- $mounted := false }}
{{- range $puma.volumeMounts }}{{ if eq .mountPath $path }}{{ $mounted = true }}{{ end }}{{ end }}
{{- if not $mounted }}
- nothing is mounted at {{ $path }} in the container `{{ $puma.name }}`: include pitstop.volumeMounts in its volumeMounts.
{{- end }}
{{- end }}
{{- $told := false }}
{{- range $puma.env }}{{ if or (eq .name "PITSTOP_STATE_DIR") }}{{ $told = true }}{{ end }}{{ end }}
{{- range $puma.envFrom }}{{ if eq (default dict .configMapRef).name (include "pitstop.configMapName" (index $ 5)) }}{{ $told = true }}{{ end }}{{ end }}
{{- if not $told }}
- the container `{{ $puma.name }}` lacks the variables of `pitstop exec` (PITSTOP_EXEC_LISTEN, PITSTOP_STATE_DIR): include pitstop.env in its env.
{{- end }}
{{- end }}

{{/* Clients and probes wait while a hot restart boots the app; a probe that gives up first kills the restart. */}}
{{- define "pitstop.problemsOfLiveness" -}}
{{- $v := index . 0 -}}{{- $p := index . 1 -}}{{- $puma := index . 4 -}}
{{- with $puma.livenessProbe }}
{{- $patience := mul (default 10 .periodSeconds | int64) (default 3 .failureThreshold | int64) }}
{{- $stop := add 90 (div (include "pitstop.ms" $v.config.puma.worker_shutdown_timeout | int64) 1000) }}
{{- $needed := max 120 $stop }}
{{- with (default dict $v.config.restart).timeout }}{{ $needed = div (add (include "pitstop.ms" . | int64) 999) 1000 }}{{ end }}
{{- if lt $patience (int64 $needed) }}
- the livenessProbe of the container `{{ $puma.name }}` gives up after {{ $patience }}s (periodSeconds × failureThreshold), and a restart may take {{ $needed }}s ({{ $p }}config.restart.timeout): Kubernetes would kill Puma in the middle of it. Raise failureThreshold, or lower {{ $p }}config.restart.timeout.
{{- end }}
{{- end }}
{{- end }}
