{{/* The link that Puma runs from. */}}
{{- define "pitstop.current" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- default (printf "%s/current" $v.config.deploy_to) $v.config.current }}
{{- end }}

{{/* The directory that holds a `current` of the pod's own, or nothing where it is on the volume. */}}
{{- define "pitstop.currentDir" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- $current := include "pitstop.current" . -}}
{{- if not (hasPrefix (printf "%s/" $v.config.deploy_to) $current) }}{{ dir $current }}{{ end }}
{{- end }}

{{/* "500ms", "1h 30m" in milliseconds. */}}
{{- define "pitstop.ms" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" (toString .) -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[a-z]+" .) | int64)) -}}
{{- end -}}
{{- $sum }}
{{- end }}

{{/* Keys of the agent's configuration as variables, one `NAME: "value"` a line. (dict "prefix" "tree") */}}
{{- define "pitstop.variables" -}}
{{- $prefix := .prefix -}}
{{- range $key, $value := .tree -}}
{{- $name := printf "%s_%s" $prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{ include "pitstop.variables" (dict "prefix" $name "tree" $value) }}
{{- else if kindIs "slice" $value -}}
{{- if $value -}}
{{ $name }}: {{ join "," $value | quote }}
{{ end -}}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}
{{ $name }}: {{ toString $value | quote }}
{{ end -}}
{{- end -}}
{{- end }}

{{/* The agent's configuration, as a map of variables. */}}
{{- define "pitstop.environment" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- $config := deepCopy $v.config -}}
{{- $_ := set $config "grace_period" (printf "%ds" (int $v.gracePeriodSeconds)) -}}
{{- $_ := set $config "listen" (printf "%s:%d" $v.agent.address (int $v.agent.port)) -}}
{{- if $v.token.enabled -}}
{{- $_ := set $config "token_file" "/run/pitstop-token/token" -}}
{{- end -}}
{{- $_ := set $config "app" (include "pitstop.app" .) -}}
{{- if and $v.app.image (not $config.image) -}}
{{- $_ := set $config "image" $v.app.image -}}
{{- end -}}
{{- if $v.notifications.signed -}}
{{- $_ := set $config "notify" (merge (dict "secret_file" "/run/pitstop-notify/key") (default dict $config.notify)) -}}
{{- end -}}
{{- with $v.pointer.configMap.name -}}
{{- $_ := set $config "pointer" (printf "file:/etc/pitstop/pointer/%s" $v.pointer.configMap.key) -}}
{{- end -}}
{{- if and $v.app.healthPath (not $config.verify.url) -}}
{{- $_ := set $config.verify "url" (printf "http://127.0.0.1:%d%s" (int $v.app.port) $v.app.healthPath) -}}
{{- end -}}
{{- if and $v.beside (not (default dict $config.exec).listen) -}}
{{- $_ := set $config "exec" (merge (dict "listen" (list (printf "tcp://0.0.0.0:%d" (int $v.app.port)))) (default dict $config.exec)) -}}
{{- end -}}
{{- if ne (default "puma" $config.app_server) "puma" -}}
{{- /* The agent refuses keys of another server; these have defaults here. */}}
{{- $_ := unset $config "puma" -}}
{{- end -}}
{{- if not $config.pod_dirs -}}
{{- $_ := unset $config "pod_dir" -}}
{{- end -}}
{{ include "pitstop.variables" (dict "prefix" "PITSTOP" "tree" $config) }}
{{- end }}
