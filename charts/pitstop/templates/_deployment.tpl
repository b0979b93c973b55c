{{/* A Deployment (StatefulSet, …) of yours with pitstop in it: (list context "the template that renders it" values). The values, which
may be left out, are for this Deployment alone, over those below `pitstop`. What your pod says of itself is not asked again: Puma's
container where it is the only one, its user, command and readiness probe, the grace period. What yours has already stays as it is,
and what cannot work is refused. */}}
{{- define "pitstop.deployment" -}}
{{- $ := index . 0 -}}
{{- $values := dict -}}
{{- if gt (len .) 2 }}{{ $values = index . 2 }}{{ end -}}
{{- if $values.Error }}{{ fail (printf "pitstop.deployment: the values are not valid YAML: %s" $values.Error) }}{{ end -}}
{{- $name := index . 1 -}}
{{- range regexSplit "(?m)^---" (include $name $) -1 }}
{{- $object := fromYaml . }}
{{- if $object.Error }}{{ fail (printf "pitstop.deployment: the template `%s` renders no valid YAML: %s" $name $object.Error) }}{{ end }}
{{- if hasKey (default dict (default dict $object.spec).template) "spec" }}
{{- $own := dict }}
{{- range $key, $value := $ }}{{ $_ := set $own $key $value }}{{ end }}
{{- $_ := set $own "Values" (dict "pitstop" (mergeOverwrite (deepCopy $.Values.pitstop) $values)) }}
{{- include "pitstop.join" (list $own $object.spec.template) }}
{{- include "pitstop.checkPod" (list $own $object.spec.template) }}
{{- end }}
{{- if $object }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}

{{/* Changes the pod's template. (list context template) */}}
{{- define "pitstop.join" -}}
{{- $ := index . 0 -}}
{{- $template := index . 1 -}}
{{- $v := $.Values.pitstop -}}
{{- $pod := $template.spec -}}
{{- $puma := dict -}}
{{- if eq (len $pod.containers) 1 -}}{{- $_ := set $v.app "container" (first $pod.containers).name -}}{{- end -}}
{{- range $pod.containers }}{{ if eq .name $v.app.container }}{{ $puma = . }}{{ end }}{{ end -}}
{{- if not $puma }}{{ fail (printf "\n\npitstop.deployment: the pod has no container `%s`: set pitstop.app.container to the name of Puma's container." $v.app.container) }}{{ end -}}
{{- include "pitstop.learn" (list $v $pod $puma) -}}
{{- $metadata := default dict $template.metadata -}}
{{- include "pitstop.fill" (list $metadata (dict "annotations" (include "pitstop.podAnnotations" $ | fromYaml))) -}}
{{- $_ := set $template "metadata" $metadata -}}
{{- include "pitstop.fill" (list $pod (omit (include "pitstop.pod" $ | fromYaml) "automountServiceAccountToken")) -}}
{{- if ne $v.releases.kind "emptyDir" -}}
{{- include "pitstop.fill" (list $pod (dict "securityContext" (include "pitstop.podSecurityContext" $ | fromYaml))) -}}
{{- end -}}
{{- include "pitstop.joinPuma" (list $ $puma) -}}
{{- range $key := list "initContainers" "containers" "volumes" -}}
{{- $ours := include (printf "pitstop.%s" $key) $ | fromYamlArray -}}
{{- $theirs := default list (get $pod $key) -}}
{{- $_ := set $pod $key (ternary (concat $ours $theirs) (concat $theirs $ours) (eq $key "initContainers")) -}}
{{- end -}}
{{- end }}

{{/* Adds what is missing, and changes nothing that is there, were it 0 or false: `merge` takes those for missing. (list yours ours) */}}
{{- define "pitstop.fill" -}}
{{- $yours := index . 0 -}}
{{- range $key, $ours := index . 1 -}}
{{- if or (not (hasKey $yours $key)) (kindIs "invalid" (get $yours $key)) -}}
{{- $_ := set $yours $key $ours -}}
{{- else if and (kindIs "map" $ours) (kindIs "map" (get $yours $key)) -}}
{{- include "pitstop.fill" (list (get $yours $key) $ours) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What the pod says of itself goes into the values. A user of the pod's becomes one of each container's: the pause process
needs none. (list values pod puma) */}}
{{- define "pitstop.learn" -}}
{{- $v := index . 0 -}}{{- $pod := index . 1 -}}{{- $puma := index . 2 -}}
{{- range $key, $name := dict "runAsUser" "user" "runAsGroup" "group" -}}
{{- if hasKey (default dict $pod.securityContext) $key -}}
{{- range concat (default list $pod.initContainers) $pod.containers -}}
{{- include "pitstop.fill" (list . (dict "securityContext" (pick $pod.securityContext $key))) -}}
{{- end -}}
{{- $_ := unset $pod.securityContext $key -}}
{{- end -}}
{{- if hasKey (default dict $puma.securityContext) $key -}}{{- $_ := set $v.runAs $name (get $puma.securityContext $key) -}}{{- end -}}
{{- end -}}
{{- if not (kindIs "invalid" $pod.terminationGracePeriodSeconds) }}{{ $_ := set $v "gracePeriodSeconds" $pod.terminationGracePeriodSeconds }}{{ end -}}
{{- if not $v.app.image }}{{ $_ := set $v.app "image" $puma.image }}{{ end -}}
{{- with (default dict $puma.readinessProbe).httpGet -}}
{{- $asked := .port -}}
{{- range $puma.ports }}{{ if eq (default "" .name) (toString $asked) }}{{ $asked = .containerPort }}{{ end }}{{ end -}}
{{- if and (not (kindIs "string" $asked)) (ne (default "HTTP" .scheme) "HTTPS") -}}
{{- $_ := set $v.app "port" $asked -}}
{{- $_ := set $v.app "healthPath" (default "/" .path) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* (list context puma) */}}
{{- define "pitstop.joinPuma" -}}
{{- $ := index . 0 -}}{{- $puma := index . 1 -}}
{{- $v := $.Values.pitstop -}}
{{- $current := include "pitstop.current" $ -}}
{{- $words := concat (default list $puma.command) (default list $puma.args) -}}
{{- if not $words }}{{ fail (printf "\n\npitstop.deployment: the container `%s` has no command: name what starts Puma, so that it can be started in %s." $puma.name $current) }}{{ end -}}
{{- if not (contains $current (join " " $words)) -}}
{{- $words = concat (list "sh" "-c" (printf "cd %s && exec \"$@\"" $current) "sh") $words -}}
{{- end -}}
{{- $_ := set $puma "command" (include "pitstop.command" (list $ $words) | fromYamlArray) -}}
{{- $_ := unset $puma "args" -}}
{{- $env := list (dict "name" "BUNDLE_GEMFILE" "value" (printf "%s/Gemfile" $current)) -}}
{{- $env = concat $env (default list (include "pitstop.env" $ | fromYamlArray)) -}}
{{- $names := list -}}
{{- range $puma.env }}{{ $names = append $names .name }}{{ end -}}
{{- $more := list -}}
{{- range $env }}{{ if not (has .name $names) }}{{ $more = append $more . }}{{ end }}{{ end -}}
{{- $_ := set $puma "env" (concat (default list $puma.env) $more) -}}
{{- $hook := include "pitstop.lifecycle" $ | fromYaml -}}
{{- if and $hook (not (default dict $puma.lifecycle).preStop) }}{{ include "pitstop.fill" (list $puma (dict "lifecycle" $hook)) }}{{ end -}}
{{- $users := pick (include "pitstop.securityContext" $ | fromYaml) "runAsUser" "runAsGroup" -}}
{{- include "pitstop.fill" (list $puma (dict "securityContext" $users)) -}}
{{- $paths := list -}}
{{- range $puma.volumeMounts }}{{ $paths = append $paths .mountPath }}{{ end -}}
{{- $mounts := default list $puma.volumeMounts -}}
{{- range include "pitstop.volumeMounts" $ | fromYamlArray }}{{ if not (has .mountPath $paths) }}{{ $mounts = append $mounts . }}{{ end }}{{ end -}}
{{- $_ := set $puma "volumeMounts" $mounts -}}
{{- end }}
