"""Korean."""

TEXT: dict[str, str] = {
    "page.title": "VampNet 스튜디오",
    "page.subtitle": "루프를 넣으면 변주가 나옵니다. 남길 것을 고르면 나머지는 모델이 새로 연주합니다.",
}
