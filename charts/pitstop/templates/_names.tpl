{{/* pitstop's version: the tag of its image where none is given. In your chart .Chart is yours. */}}
{{- define "pitstop.version" -}}
0.2.0
{{- end }}

{{- define "pitstop.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "pitstop.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "pitstop.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pitstop.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* A name that is too long ends in a hash of the whole, so that two of them stay two. (list name most) */}}
{{- define "pitstop.short" -}}
{{- $name := index . 0 -}}{{- $most := index . 1 -}}
{{- if le (len $name) $most }}{{ $name }}{{ else -}}
{{- $kept := trunc (sub $most 9 | int) $name -}}
{{- printf "%s-%s" (regexReplaceAll "[^A-Za-z0-9]+$" $kept "") (sha256sum $name | trunc 8) }}
{{- end }}
{{- end }}

{{/* What the app is called, in reports, notifications, rules and dashboards. */}}
{{- define "pitstop.app" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- default .Release.Name $v.config.app }}
{{- end }}

{{- define "pitstop.selector" -}}
app.kubernetes.io/name: {{ include "pitstop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pitstop.labels" -}}
{{- $ours := include "pitstop.selector" . | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge $ours .Values.commonLabels | toYaml }}
{{- end }}

{{/* The labels of an object, and the user's: those win, and no key is written twice. (list context more) */}}
{{- define "pitstop.labelsAnd" -}}
{{- mergeOverwrite (include "pitstop.labels" (index . 0) | fromYaml) (index . 1) | toYaml }}
{{- end }}

{{- define "pitstop.serviceAccount" -}}
{{- default (ternary (include "pitstop.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "pitstop.storageClass" -}}
{{- default (include "pitstop.fullname" .) .Values.storageClass.name }}
{{- end }}

{{/* Whether this chart renders a whole app: "true" or nothing. */}}
{{- define "pitstop.isComplete" -}}
{{- if eq .Chart.Name "pitstop" }}
{{- if ternary .Chart.IsRoot .Values.complete (kindIs "invalid" .Values.complete) }}true{{ end }}
{{- end }}
{{- end }}
