"""An S3 of another make, in auth mode. Its arguments are the policies of an agent, of CI, of who promotes, and of who prunes.

Prints where it is and whom it answers, and ends with its input.
"""

import json
import sys

import boto3
from moto import settings
from moto.server import ThreadedMotoServer

BUCKET, PREFIX = "moto-bucket", "apps/shop"


def client(service, url):
    keys = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)


def user(iam, name, policy):
    iam.create_user(UserName=name)
    policy = policy.replace("BUCKET", BUCKET).replace("PREFIX", PREFIX).replace("POINTER", "production")
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"access": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    iam = client("iam", url)
    keys = {name: user(iam, name, policy) for name, policy in zip(["agent", "ci", "promoter", "pruner"], sys.argv[1:])}
    keys["nobody"] = {"access": keys["agent"]["access"], "secret": "a guess"}
    client("s3", url).create_bucket(Bucket=BUCKET)
    # From now on nobody is believed without a signature and a permission.
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    print(json.dumps({"endpoint": url, "source": f"s3://{BUCKET}/{PREFIX}", "keys": keys}), flush=True)
    sys.stdin.read()
    server.stop()


main()
