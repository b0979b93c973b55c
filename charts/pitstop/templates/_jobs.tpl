{{/* The pod of a job: what the pointer names, or the release that is named, is fetched, and the command runs in it. No agent is
needed, since the pod ends with its command. (list context command release-or-nothing resources) */}}
{{- define "pitstop.jobPod" -}}
{{- $ := index . 0 -}}
{{- $command := index . 1 -}}
{{- $release := index . 2 -}}
restartPolicy: Never
serviceAccountName: {{ include "pitstop.serviceAccount" $ }}
automountServiceAccountToken: false
securityContext:
  {{- mergeOverwrite (include "pitstop.podSecurityContext" $ | fromYaml) $.Values.podSecurityContext | toYaml | nindent 2 }}
{{- with include "pitstop.placement" $ | trim }}
{{ . }}
{{- end }}
initContainers:
  - name: pitstop-fetch
    image: {{ include "pitstop.image" $ | quote }}
    imagePullPolicy: {{ $.Values.agent.image.pullPolicy }}
    args: {{ ternary (list "fetch" "--release" $release) (list "fetch") (ne $release "") | toJson }}
    envFrom:
      {{- include "pitstop.agentEnvFrom" $ | trim | nindent 6 }}
    {{- with $.Values.agent.env }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- include "pitstop.agentRest" $ | nindent 4 }}
containers:
  - name: job
    {{- include "pitstop.jobContainer" (list $ (concat (list "sh" "-c" (printf "cd %s && exec \"$@\"" (include "pitstop.current" $)) "sh") $command) (index . 3)) | nindent 4 }}
    volumeMounts:
      {{- include "pitstop.sharedMounts" $ | trim | nindent 6 }}
      {{- include "pitstop.jobMounts" $ | nindent 6 }}
volumes:
  {{- include "pitstop.volumes" $ | nindent 2 }}
  {{- with $.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What runs the app's code, as Puma's container does. (list context command resources) */}}
{{- define "pitstop.jobContainer" -}}
{{- $ := index . 0 -}}
{{- $v := ternary $.Values $.Values.pitstop (eq $.Chart.Name "pitstop") -}}
image: {{ $v.app.image | quote }}
imagePullPolicy: {{ $v.app.imagePullPolicy }}
command: {{ index . 1 | toJson }}
env:
  - name: BUNDLE_GEMFILE
    value: {{ include "pitstop.current" $ }}/Gemfile
  {{- with $v.app.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $v.app.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- mergeOverwrite (include "pitstop.securityContext" $ | fromYaml) $v.app.securityContext | toYaml | nindent 2 }}
{{- with default $v.app.resources (index . 2) }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "pitstop.jobMounts" -}}
{{- if .Values.app.tmp -}}
- name: pitstop-tmp
  mountPath: /tmp
{{- end }}
{{- with .Values.app.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What a job's or a worker's pods are called, in a label: not as those that the Service and the Deployment find. (list context name) */}}
{{- define "pitstop.jobName" -}}
{{- include "pitstop.short" (list (printf "%s-%s" (include "pitstop.name" (index . 0)) (index . 1)) 63) }}
{{- end }}

{{- define "pitstop.jobLabels" -}}
{{- include "pitstop.labelsAnd" (list (index . 0) (dict "app.kubernetes.io/name" (include "pitstop.jobName" .))) }}
{{- end }}

{{/* The context of a worker's agent: of the app's values those that hold for any server, and the recipe of docs/job-workers.md. Its
variables stand in the container, as in a chart of yours. (list context worker) gives YAML of the values. */}}
{{- define "pitstop.workerValues" -}}
{{- $ := index . 0 -}}
{{- $v := deepCopy $.Values -}}
{{- $seconds := int (default 600 (index . 1).seconds) -}}
{{- $script := "/opt/jobs/job-worker" -}}
{{- $pid := "/run/job-worker/pid" -}}
{{- $env := list (dict "name" "CURRENT" "value" (include "pitstop.current" $)) (dict "name" "PID_FILE" "value" $pid) (dict "name" "JOB_SECONDS" "value" (toString $seconds)) -}}
{{- $config := omit $v.config "puma" "passenger" "unicorn" "exec" "warmup" -}}
{{- $_ := set $config "puma" (dict "state_file" "") -}}
{{- $_ := set $config "verify" (dict "url" "") -}}
{{- $_ := set $config "restart" (pick (default dict $v.config.restart) "spread" "max_unavailable") -}}
{{- $_ := set $config "app_server" "command" -}}
{{- $_ := set $config "command" (dict "pid_file" $pid "restart" (printf "%s restart" $script) "check" (printf "%s check" $script) "timeout" (printf "%ds" (add $seconds 120))) -}}
{{- $_ := set $config "drain" (dict "min" "0s" "ports" (list "9") "reserve" (printf "%ds" (add $seconds 30))) -}}
{{- $_ := set $v "config" $config -}}
{{- $_ := set $v "beside" "" -}}
{{- $_ := set $v "gracePeriodSeconds" (add $seconds 60) -}}
{{- $_ := set $v.agent "inAppImage" true -}}
{{- $_ := set $v.agent "env" (concat $v.agent.env $env) -}}
{{- $_ := set $v.agent "volumeMounts" (concat $v.agent.volumeMounts (include "pitstop.workerMounts" . | fromYamlArray)) -}}
{{- $_ := set $v.agent.readiness "enabled" false -}}
{{- $_ := set $v.app "healthPath" "" -}}
{{- $_ := set $v.app "container" "jobs" -}}
{{- $_ := set $v.app "env" (concat $v.app.env $env) -}}
{{- if eq $v.releases.kind "shared" }}{{ $_ := set $v.releases "existingClaim" (include "pitstop.claimName" $) }}{{ end -}}
{{- if and $v.storageClass.create (not $v.releases.storageClassName) }}{{ $_ := set $v.releases "storageClassName" (include "pitstop.storageClass" $) }}{{ end -}}
{{- $v | toYaml }}
{{- end }}

{{/* The script, and where it keeps the worker's pid: both containers have them. */}}
{{- define "pitstop.workerMounts" -}}
- name: job-worker
  mountPath: /opt/jobs
- name: job-worker-run
  mountPath: /run/job-worker
{{- end }}
