{{/* For the pod's spec: what both containers rely on. */}}
{{- define "pitstop.pod" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
terminationGracePeriodSeconds: {{ int $v.gracePeriodSeconds }}
{{- if ne $v.beside "exec" }}
shareProcessNamespace: true
{{- end }}
{{- if not (kindIs "invalid" $v.automountServiceAccountToken) }}
automountServiceAccountToken: {{ $v.automountServiceAccountToken }}
{{- end }}
{{- end }}

{{/* For the pod's `securityContext`. No user here: the pause process would have it too, and pass for one that may be signalled. */}}
{{- define "pitstop.podSecurityContext" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
fsGroup: {{ int $v.runAs.group }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{/* For the pod's annotations: the token, which the agent reads from there. */}}
{{- define "pitstop.podAnnotations" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if and $v.token.enabled (not $v.token.existingSecret) -}}
pitstop/token: {{ $v.token.value | quote }}
{{- end }}
{{- end }}

{{/* For Puma's `lifecycle`. The port is a number: a name would be looked for in Puma's own container. `pitstop exec` with the agent
needs no hook: it holds SIGTERM back itself. */}}
{{- define "pitstop.lifecycle" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if eq $v.beside "exec" -}}
{}
{{- else if $v.token.existingSecret -}}
preStop:
  exec:
    {{- /* Kubernetes takes a header from no Secret. This one asks over the agent's socket, which needs no token. */}}
    command: [/opt/pitstop/pitstop, drain]
{{- else -}}
preStop:
  httpGet:
    path: /prestop
    port: {{ int $v.agent.port }}
    {{- if $v.token.enabled }}
    httpHeaders:
      - name: Authorization
        value: {{ printf "Bearer %s" $v.token.value | quote }}
    {{- end }}
{{- end }}
{{- end }}

{{/* For Puma's `command`: what starts Puma, under `pitstop exec` where `beside` is set. (list context (list "bundle" "exec" "puma")) */}}
{{- define "pitstop.command" -}}
{{- $ := index . 0 -}}
{{- $v := ternary $.Values $.Values.pitstop (eq $.Chart.Name "pitstop") -}}
{{- $parent := list "/opt/pitstop/pitstop" "exec" -}}
{{- if eq $v.beside "sidecar" }}{{ $parent = append $parent "--sidecar" }}{{ end -}}
{{- ternary (concat $parent (list "--") (index . 1)) (index . 1) (ne $v.beside "") | toYaml }}
{{- end }}

{{/* For Puma's `env`: what `pitstop exec` has to know; nothing where `beside` is empty. */}}
{{- define "pitstop.env" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if eq $v.beside "exec" }}
{{- include "pitstop.agentEnv" . }}
{{- else if $v.beside }}
{{- range $name, $value := include "pitstop.environment" . | fromYaml }}
{{- if regexMatch "^PITSTOP_(APP_SERVER|EXEC_.*|STATE_DIR|LOG_FORMAT|GRACE_PERIOD|DRAIN_(MIN|RESERVE|MAX))$" $name }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
